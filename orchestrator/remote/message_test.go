package remote

import (
	"net/http"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// receiver is the other end of a stream; it takes what is sent unless it is stuck.
type receiver struct {
	stuck    bool
	deadline chan struct{} // closed when there was one
}

func (*receiver) Header() http.Header { return http.Header{} }
func (*receiver) WriteHeader(int)     {}
func (r *receiver) Write(b []byte) (int, error) {
	if r.stuck {
		<-r.deadline
		return 0, os.ErrDeadlineExceeded
	}
	return len(b), nil
}
func (*receiver) FlushError() error { return nil }
func (r *receiver) SetWriteDeadline(at time.Time) error {
	if at.Before(time.Now()) {
		close(r.deadline)
	}
	return nil
}

// A stream ends when its receiver takes nothing for too long, not because nothing is sent.
func TestSenderLosesPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{deadline: make(chan struct{})}
		s := NewSender(r)
		for range 2 {
			if err := s.Send("taken"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * s.Patience)
		}
		select {
		case <-r.deadline:
			t.Error("silence ended the stream")
		default:
		}
		r.stuck = true
		began := time.Now()
		if err := s.Send("not taken"); err == nil || time.Since(began) != s.Patience {
			t.Errorf("got %v after %s", err, time.Since(began))
		}
	})
}
