// SPDX-License-Identifier: Apache-2.0

package v1_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-ha/holdfast/worker/api"
	"github.com/holdfast-ha/holdfast/worker/api/apitest"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// cutter serves a handler and cuts the n-th stream after some bytes.
type cutter struct {
	inner http.Handler
	after []int // bytes of each stream before it is cut; beyond: never
	mu    sync.Mutex
	n     int
	ids   []string // Last-Event-ID of each stream
}

func (c *cutter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	n := c.n
	c.n++
	c.ids = append(c.ids, r.Header.Get("Last-Event-ID"))
	c.mu.Unlock()
	left := -1
	if n < len(c.after) {
		left = c.after[n]
	}
	c.inner.ServeHTTP(&cutWriter{ResponseWriter: w, left: left}, r)
	if left >= 0 {
		panic(http.ErrAbortHandler)
	}
}

type cutWriter struct {
	http.ResponseWriter
	left int // -1: never
}

func (w *cutWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *cutWriter) Write(b []byte) (int, error) {
	if w.left < 0 {
		return w.ResponseWriter.Write(b)
	}
	n := bytes.Count(b, []byte("data:"))
	if n > w.left {
		return 0, errors.New("cut")
	}
	w.left -= n
	return w.ResponseWriter.Write(b)
}

// TestWatchEventsResumes proves that a watch goes on where it was cut, at another worker
// if need be: no event is lost, also none of a transaction that was cut in two, and none
// comes twice.
func TestWatchEventsResumes(t *testing.T) {
	f := apitest.NewFleet()
	cut := &cutter{inner: api.NewHandler(f, api.HandlerOptions{}), after: []int{2, 0, 1}}
	a, b := serve(t, cut), serve(t, cut)
	var lost atomic.Int64
	c, err := v1.NewClient(v1.Options{Endpoints: []string{a.URL, dead(t), b.URL}, Lost: func(error) { lost.Add(1) }})
	if err != nil {
		t.Fatal(err)
	}
	end := errors.New("enough")
	var got []string
	err = c.WatchEvents(t.Context(), v1.EventQuery{}, func(e v1.Event) error {
		got = append(got, fmt.Sprintf("%s@%d", e.ID, e.Revision))
		switch len(got) {
		case 3:
			f.Emit(v1.Event{Type: "x", At: apitest.Start}, false)
			f.Emit(v1.Event{Type: "y", At: apitest.Start}, true)
		case 5:
			return end
		}
		return nil
	})
	if !errors.Is(err, end) {
		t.Fatalf("watch ended with %v", err)
	}
	if d := cmp.Diff([]string{"e-1@90", "e-2@95", "e-3@95", "e-4@101", "e-5@101"}, got); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
	cut.mu.Lock()
	defer cut.mu.Unlock()
	// Cut after e-2, the first of two at revision 95: the next stream asks from 95 on.
	if cut.ids[0] != "" || cut.ids[1] != "95" || lost.Load() < 3 {
		t.Errorf("resumed at %q, lost %d times", cut.ids, lost.Load())
	}
}

// TestWatchHosts proves that a watch begins with what is there, follows changes, and
// tells when a host is gone.
func TestWatchHosts(t *testing.T) {
	f := apitest.NewFleet()
	c := client(t, worker(t, f).URL)
	end := errors.New("enough")
	var got []string
	err := c.WatchHosts(t.Context(), v1.HostQuery{Partition: "z1"}, func(h v1.Host) error {
		got = append(got, fmt.Sprintf("%s %s %v", h.Spec.ID, h.Status.State, h.Deleted))
		switch len(got) {
		case 3:
			f.Change("h-1", func(h *v1.Host) { h.Status.State = "SUSPECT" })
		case 4:
			f.Mu.Lock()
			delete(f.HostMap, "h-1")
			f.Mu.Unlock()
			f.Emit(v1.Event{}, false)
		case 5:
			return end
		}
		return nil
	})
	if !errors.Is(err, end) {
		t.Fatalf("watch ended with %v", err)
	}
	if d := cmp.Diff([]string{"h-1 AVAILABLE false", "h-2 SUSPECT false", "h-3 FENCED false", "h-1 SUSPECT false", "h-1  true"}, got); d != "" {
		t.Errorf("hosts (-want +got):\n%s", d)
	}
}

// TestWatchHostsResumes proves that a watch of hosts goes on from the revision up to which all
// was told, and where that is no longer kept finds out itself who is gone.
func TestWatchHostsResumes(t *testing.T) {
	host := func(id, state string, deleted bool) string {
		b, err := json.Marshal(v1.Host{Spec: v1.HostSpec{ID: id}, Status: v1.HostStatus{State: state}, Deleted: deleted})
		if err != nil {
			t.Fatal(err)
		}
		return "event: host\ndata: " + string(b) + "\n\n"
	}
	streams := []string{
		host("h-1", "a", false) + host("h-2", "a", false) + host("h-3", "a", false) + "id: 100\n\n" + host("h-1", "b", false) + "id: 105\n\n" + host("h-2", "b", false),
		host("h-2", "b", false) + host("h-9", "", true) + host("h-3", "", true) + "id: 110\n\n",
		"", // 410
		host("h-1", "c", false) + "id: 200\n\n",
	}
	var mu sync.Mutex
	var ids []string
	s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		n := len(ids)
		ids = append(ids, r.Header.Get("Last-Event-ID"))
		mu.Unlock()
		if n >= len(streams) || streams[n] == "" {
			w.WriteHeader(http.StatusGone)
			_, _ = w.Write([]byte(`{"code":"compacted","status":410,"detail":"too long ago"}`))
			return
		}
		_, _ = w.Write([]byte(streams[n]))
	}))
	end := errors.New("enough")
	var got []string
	err := client(t, s.URL).WatchHosts(t.Context(), v1.HostQuery{}, func(h v1.Host) error {
		if h.Deleted {
			got = append(got, "-"+h.Spec.ID)
		} else {
			got = append(got, h.Spec.ID+" "+h.Status.State)
		}
		if len(got) == 9 {
			return end
		}
		return nil
	})
	if !errors.Is(err, end) {
		t.Fatalf("watch ended with %v after %q", err, got)
	}
	if d := cmp.Diff([]string{"h-1 a", "h-2 a", "h-3 a", "h-1 b", "h-2 b", "h-2 b", "-h-3", "h-1 c", "-h-2"}, got); d != "" {
		t.Errorf("hosts (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"", "105", "110", ""}, ids); d != "" {
		t.Errorf("asked from (-want +got):\n%s", d)
	}
}

// TestWatchEnds proves that a watch ends with its context, with a problem that another
// try cannot mend, and at once where no endpoint answers at all.
func TestWatchEnds(t *testing.T) {
	f := apitest.NewFleet()
	c := client(t, worker(t, f).URL)
	ctx, cancel := context.WithCancel(t.Context())
	err := c.WatchEvents(ctx, v1.EventQuery{}, func(v1.Event) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	var p *v1.Problem
	if err := c.WatchEvents(t.Context(), v1.EventQuery{Severity: "loud"}, nil); !errors.As(err, &p) || p.Field != "severity" {
		t.Errorf("bad filter: %v", err)
	}
	if err := client(t, dead(t), dead(t)).WatchEvents(t.Context(), v1.EventQuery{}, nil); !errors.As(err, &p) || p.Code != v1.CodeUnavailable {
		t.Errorf("nobody there: %v", err)
	}
}
