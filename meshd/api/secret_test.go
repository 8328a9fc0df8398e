package api

import (
	"fmt"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/swarm"
)

func TestSecretsAndConfigs(t *testing.T) {
	r := newRig(t)
	for kind, shown := range map[string]bool{"secret": false, "config": true} {
		base := "/" + kind + "s"
		create := func(body string) answer { return r.do("POST", base+"/create", body) }
		id := decode[swarm.SecretCreateResponse](create(`{"Name":"s1","Data":"aGlkZGVu"}`).want(201, "ID")).ID
		create(`{"Name":"s1","Data":"aGlkZGVu"}`).want(409, kind+" s1 already exists")
		create(`{"Name":"-","Data":"aGlkZGVu"}`).want(400, "invalid name")
		create(`{"Name":"`+strings.Repeat("x", 65)+`","Data":"aGlkZGVu"}`).want(400, "invalid name")
		create(`{"Name":"s2"}`).want(400, "data must be larger than 0")
		create(`{"Name":"s2","Data":"`+strings.Repeat("AAAA", 350000)+`"}`).want(400, "less than")
		create(`{"Name":"s2","Data":"`+strings.Repeat("AAAA", 2000000)+`"}`).want(413, "larger than")
		create(`{"Name":"s2","Data":"aGlkZGVu","Templating":{"Name":"jinja"}}`).want(400, "unrecognized template driver")
		create(`{"Name":"tmpl","Data":"aGlkZGVu","Templating":{"Name":"golang"}}`).want(201, "")
		r.do("GET", base+"/tmpl", nil).want(200, `"Templating":{"Name":"golang"}`)
		a := r.do("GET", base+"/s1", nil).want(200, `"Labels":{}`)
		if strings.Contains(string(a.body), "aGlkZGVu") != shown {
			t.Errorf("%s is shown as %s", kind, a.body)
		}
		if list := r.do("GET", base, nil).want(200, id); strings.Contains(string(list.body), "aGlkZGVu") != shown {
			t.Errorf("%s is listed as %s", kind, list.body)
		}
		version := decode[swarm.Secret](a).Version.Index
		update := func(v uint64, body string) answer {
			return r.do("POST", fmt.Sprintf("%s/s1/update?version=%d", base, v), body)
		}
		update(version, `{"Name":"s1","Data":"b3RoZXI="}`).want(400, "only updates to Labels are allowed")
		update(version, `{"Name":"s9"}`).want(400, "only updates to Labels are allowed")
		update(version+100, `{"Name":"s1"}`).want(500, "out of sequence")
		update(version, `{"Name":"s1","Labels":{"a":"b"}}`).want(200, "")
		r.do("GET", base+"/s1", nil).want(200, `"a":"b"`)

		field := strings.ToUpper(kind[:1]) + kind[1:]
		spec := fmt.Sprintf(`{"Name":"user-%s","TaskTemplate":{"ContainerSpec":{"Image":"nginx","%ss":[{"%sID":"%%s","%sName":"s1","File":{"Name":"f","UID":"0","GID":"0","Mode":292}}]}}}`, kind, field, field, field)
		r.do("POST", "/services/create", fmt.Sprintf(spec, "nope")).want(400, kind+" not found: s1")
		r.do("POST", "/services/create", fmt.Sprintf(spec, id)).want(201, "")
		r.do("DELETE", base+"/s1", nil).want(400, kind+" 's1' is in use by the following service: user-"+kind)
		r.do("POST", "/services/create", strings.Replace(fmt.Sprintf(spec, id), `"user-`, `"also-`, 1)).want(201, "")
		r.do("DELETE", base+"/s1", nil).want(400, kind+" 's1' is in use by the following services: ")
		r.do("DELETE", "/services/also-"+kind, nil).want(200, "")
		r.do("DELETE", "/services/user-"+kind, nil).want(200, "")
		r.do("DELETE", base+"/s1", nil).want(204, "")
		r.do("DELETE", base+"/s1", nil).want(404, kind+" s1 not found")
	}
}
