package schedule

import (
	"strings"
	"testing"
	"time"
)

func TestLabels(t *testing.T) {
	const ok = ""
	for _, tc := range []struct{ labels, want string }{
		{"", ok},
		{"a=b", ok},
		{"mesh.schedule=0 5 * * *", ok},
		{"mesh.schedule=*/5 0-6,20 1,15 jan-mar mon", ok},
		{"mesh.schedule=@daily", ok},
		{"mesh.schedule=@every 90s", ok},
		{"mesh.schedule=CRON_TZ=Europe/Berlin 0 5 * * *", ok},
		{"mesh.schedule=0 5 * * *;mesh.schedule.timezone=Asia/Tokyo", ok},
		{"mesh.schedule=TZ=UTC 0 5 * * *;mesh.schedule.timezone=UTC", ok},
		{"mesh.schedule=0 0 29 2 *", ok},
		{"mesh.schedule=@hourly;mesh.schedule.concurrency=replace;mesh.schedule.missed=skip;mesh.schedule.history=0", ok},
		{"mesh.schedule=", "five fields are needed"},
		{"mesh.schedule=0 5 * *", "expected exactly 5 fields"},
		{"mesh.schedule=0 0 5 * * *", "expected exactly 5 fields"},
		{"mesh.schedule=61 * * * *", "above maximum"},
		{"mesh.schedule=@never", "unrecognized"},
		{"mesh.schedule=0 0 30 2 *", "never comes"},
		{"mesh.schedule=CRON_TZ=UTC", "five fields are needed"},
		{"mesh.schedule=TZ=", "five fields are needed"},
		{"mesh.schedule=CRON_TZ=Nowhere/Else 0 5 * * *", `no time zone "Nowhere/Else"`},
		{"mesh.schedule=CRON_TZ=UTC TZ=UTC 0 5 * * *", "gives no times"},
		{"mesh.schedule=CRON_TZ=UTC 0 5 * * *;mesh.schedule.timezone=Asia/Tokyo", "names time zone UTC"},
		{"mesh.schedule=0 5 * * *;mesh.schedule.timezone=Local", `no time zone "Local"`},
		{"mesh.schedule=0 5 * * *;mesh.schedule.concurrency=some", "none of forbid, allow, replace"},
		{"mesh.schedule=0 5 * * *;mesh.schedule.missed=all", "neither run nor skip"},
		{"mesh.schedule=0 5 * * *;mesh.schedule.history=-1", "no number from 0"},
		{"mesh.schedule=0 5 * * *;mesh.schedule.histroy=3", "mesh.schedule.histroy is not known"},
		{"mesh.schedule.history=3", "needs label mesh.schedule"},
	} {
		labels := map[string]string{}
		for _, l := range strings.Split(tc.labels, ";") {
			if k, v, found := strings.Cut(l, "="); found {
				labels[k] = v
			}
		}
		p, err := Of(labels)
		switch {
		case tc.want == ok && (err != nil || (p != nil) != (labels[Label] != "")):
			t.Errorf("%s: %v, %v", tc.labels, p, err)
		case tc.want != ok && (err == nil || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%s: %v, want %q", tc.labels, err, tc.want)
		}
	}
}

func at(t *testing.T, text string) time.Time {
	t.Helper()
	out, err := time.Parse("2006-01-02 15:04:05", text)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestDue(t *testing.T) {
	for _, tc := range []struct{ name, spec, since, now, due, next string }{
		{"not yet", "0 5 * * *", "2026-01-01 04:00:00", "2026-01-01 04:59:59", "", "2026-01-01 05:00:00"},
		{"now", "0 5 * * *", "2026-01-01 04:00:00", "2026-01-01 05:00:00", "2026-01-01 05:00:00", "2026-01-02 05:00:00"},
		{"dealt with", "0 5 * * *", "2026-01-01 05:00:00", "2026-01-01 05:00:00", "", "2026-01-02 05:00:00"},
		{"the last of many", "0 * * * *", "2026-01-01 00:30:00", "2026-01-01 05:10:00", "2026-01-01 05:00:00", "2026-01-01 06:00:00"},
		{"a clock set back", "0 * * * *", "2026-01-01 05:00:00", "2026-01-01 01:00:00", "", "2026-01-01 06:00:00"},
		{"very many", "* * * * *", "2026-01-01 00:00:00", "2026-02-01 00:00:30", "2026-02-01 00:00:30", "2026-02-01 00:01:00"},
		{"another zone", "CRON_TZ=Asia/Tokyo 0 5 * * *", "2026-01-01 00:00:00", "2026-01-01 20:00:01", "2026-01-01 20:00:00", "2026-01-02 20:00:00"},
		// Berlin's clocks go from 2:00 to 3:00 on 29 March 2026, back from 3:00 to 2:00 on 25 October.
		{"over the start of summer time", "CRON_TZ=Europe/Berlin 0 5 * * *", "2026-03-28 12:00:00", "2026-03-29 03:00:00", "2026-03-29 03:00:00", "2026-03-30 03:00:00"},
		{"over its end", "CRON_TZ=Europe/Berlin 0 5 * * *", "2026-10-24 12:00:00", "2026-10-25 04:00:00", "2026-10-25 04:00:00", "2026-10-26 04:00:00"},
		{"an hour that does not come", "CRON_TZ=Europe/Berlin 30 2 * * *", "2026-03-28 12:00:00", "2026-03-29 12:00:00", "", "2026-03-30 00:30:00"},
		{"an hour that comes twice", "CRON_TZ=Europe/Berlin 30 2 * * *", "2026-10-24 12:00:00", "2026-10-25 00:30:00", "2026-10-25 00:30:00", "2026-10-25 01:30:00"},
		{"every", "@every 90s", "2026-01-01 00:00:00", "2026-01-01 00:03:10", "2026-01-01 00:03:00", "2026-01-01 00:04:30"},
	} {
		p, err := Of(map[string]string{Label: tc.spec})
		if err != nil {
			t.Fatal(err)
		}
		due, next := p.Due(at(t, tc.since), at(t, tc.now))
		show := func(x time.Time) string {
			if x.IsZero() {
				return ""
			}
			return x.UTC().Format("2006-01-02 15:04:05")
		}
		if show(due) != tc.due || show(next) != tc.next {
			t.Errorf("%s: due %q, then %q, want %q, then %q", tc.name, show(due), show(next), tc.due, tc.next)
		}
	}
}

func FuzzOf(f *testing.F) {
	for _, s := range []string{"0 5 * * *", "CRON_TZ=UTC", "TZ= ", "@every 1ns", "*/0 * * * *", "CRON_TZ=../../etc/passwd * * * * *"} {
		f.Add(s, "UTC")
	}
	f.Fuzz(func(t *testing.T, spec, zone string) {
		p, err := Of(map[string]string{Label: spec, labelTimezone: zone})
		if (p == nil) == (err == nil) {
			t.Fatalf("%v, %v", p, err)
		}
		if p == nil {
			return
		}
		since := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		if due, next := p.Due(since, since.Add(time.Hour)); due.After(since.Add(time.Hour)) || !next.IsZero() && !next.After(since) {
			t.Errorf("%q: due %v, next %v", spec, due, next)
		}
	})
}
