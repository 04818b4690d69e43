// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-ha/holdfast/worker/api"
	"github.com/holdfast-ha/holdfast/worker/api/apitest"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// stream runs a watch on virtual time for a while and gives what was written.
func stream(t *testing.T, b api.Backend, target string, d time.Duration, headers ...string) string {
	t.Helper()
	h := api.NewHandler(b, api.HandlerOptions{})
	w := httptest.NewRecorder()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	r := httptest.NewRequestWithContext(ctx, "GET", target, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	h.ServeHTTP(w, r)
	if got := w.Header().Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("content type %q", got)
	}
	return w.Body.String()
}

// TestStreamOnTheWire proves the format: id is the revision, one line of JSON each, a
// heartbeat every 15 s of silence, all with the end of the request.
func TestStreamOnTheWire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := stream(t, apitest.NewFleet(), "/v1/events?watch=true&severity=page", 31*time.Second)
		if !strings.HasPrefix(got, ": holdfast\n\nid: 90\nevent: event\ndata: {\"id\":\"e-1\",") || !strings.HasSuffix(got, "\n\n: heartbeat\n\n: heartbeat\n\n") || strings.Count(got, "data:") != 1 {
			t.Errorf("%q", got)
		}
	})
}

// TestStreamResumes proves that Last-Event-ID repeats its revision, which may have been
// cut in two, and that ?after= does not.
func TestStreamResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			target  string
			headers []string
			want    int
		}{
			{"/v1/events?watch=true", nil, 3},
			{"/v1/events?watch=true", []string{"Last-Event-ID", "95"}, 2},
			{"/v1/events?watch=true", []string{"Last-Event-ID", "96"}, 0},
			{"/v1/events?watch=true&after=90", nil, 2},
			{"/v1/events?watch=true&after=95", nil, 0},
			{"/v1/events?watch=true&after=90", []string{"Last-Event-ID", "95"}, 2},
		} {
			if got := strings.Count(stream(t, apitest.NewFleet(), c.target, time.Second, c.headers...), "data:"); got != c.want {
				t.Errorf("%s %v: %d events, want %d", c.target, c.headers, got, c.want)
			}
		}
	})
}

// TestHostStreamResumes: a watch of hosts says up to which revision all was told, and with that
// as Last-Event-ID tells what changed since.
func TestHostStreamResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := apitest.NewFleet()
		all := stream(t, f, "/v1/hosts?watch=true&partition=z1", time.Second)
		at := fmt.Sprintf("id: %d\n\n", f.Revision)
		if strings.Count(all, "data:") != 3 || !strings.HasSuffix(all, "}\n\n"+at) {
			t.Errorf("%q", all)
		}
		last := strconv.FormatInt(f.Revision, 10)
		f.Change("h-2", func(h *v1.Host) { h.Status.State = "DEGRADED" })
		if err := f.DeleteHost(t.Context(), "ann", "h-3", -1); err != nil {
			t.Fatal(err)
		}
		since := stream(t, f, "/v1/hosts?watch=true&partition=z1", time.Second, "Last-Event-ID", last)
		if strings.Count(since, "data:") != 2 || !strings.Contains(since, `"DEGRADED"`) || !strings.Contains(since, `"deleted":true`) || strings.Contains(since, `"h-1"`) {
			t.Errorf("%q", since)
		}
		f.Kept = f.Revision
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/v1/hosts?watch=true", nil)
		r.Header.Set("Last-Event-ID", last)
		if api.NewHandler(f, api.HandlerOptions{}).ServeHTTP(w, r); w.Code != 410 {
			t.Errorf("from what is not kept: %d %s", w.Code, w.Body)
		}
	})
}

// failingWatch sends one host and fails.
type failingWatch struct{ *apitest.Fleet }

func (failingWatch) WatchHosts(_ context.Context, _ api.HostFilter, w api.HostWatch) error {
	return errors.Join(w.Host(v1.Host{}), v1.Problemf(v1.CodeUnavailable, "lost etcd"))
}

// TestStreamEndsWithAProblem proves that a watch that fails says why as its last event.
func TestStreamEndsWithAProblem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := stream(t, failingWatch{apitest.NewFleet()}, "/v1/hosts?watch=true", time.Second)
		_, last, _ := strings.Cut(got, "event: error\ndata: ")
		if !strings.Contains(last, `"code":"unavailable"`) || !strings.Contains(last, "lost etcd") {
			t.Errorf("%q", got)
		}
	})
}

// FuzzRequests proves that no request panics or makes the server answer 500.
func FuzzRequests(f *testing.F) {
	for _, r := range api.Routes {
		f.Add(r.Method, r.Path, "limit=1&after=x", `{"on":true}`)
	}
	f.Add("PUT", "/v1/partitions/:ha:explain", "scope=host/", "[]")
	f.Add("GET", "/v1/hosts/..%2f", "%zz", "")
	f.Fuzz(func(t *testing.T, method, path, query, body string) {
		if strings.Contains(query, "watch") {
			return // a watch has no end of its own
		}
		r := httptest.NewRequest("GET", "/", strings.NewReader(body))
		r.Method, r.URL.Path, r.URL.RawQuery = method, path, query
		w := httptest.NewRecorder()
		api.NewHandler(apitest.NewFleet(), api.HandlerOptions{}).ServeHTTP(w, r)
		if w.Code == 500 {
			t.Errorf("%s %q ? %q: %s", method, path, query, w.Body)
		}
	})
}
