// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-ha/holdfast/worker/api"
	"github.com/holdfast-ha/holdfast/worker/api/apitest"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// two workers: the first one knows the second as the owner of h-1.
func twoWorkers(t *testing.T) (first, second *apitest.Fleet, h http.Handler) {
	t.Helper()
	first, second = apitest.NewFleet(), apitest.NewFleet()
	second.Change("h-1", func(h *v1.Host) { h.Status.Reason = "live facts" })
	s := httptest.NewServer(api.NewHandler(second, api.HandlerOptions{}))
	t.Cleanup(s.Close)
	first.Elsewhere["h-1"] = s.URL
	return first, second, api.NewHandler(first, api.HandlerOptions{})
}

const orderOn = `{"verb":"on","reason":"r"}`

// TestOrderReachesTheOwner proves that an order is carried out by the owner alone, once,
// in the name of the one who asked.
func TestOrderReachesTheOwner(t *testing.T) {
	first, second, h := twoWorkers(t)
	w := ask(h, "POST", "/v1/hosts/h-1/orders", orderOn, v1.ActorHeader, "ann")
	if w.Code != 200 || !strings.Contains(w.Body.String(), "on record") {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if d := cmp.Diff([]string{`ann@10.1.1.1: order on h-1 "r" ""`}, second.Noted()); d != "" {
		t.Errorf("owner (-want +got):\n%s", d)
	}
	if got := first.Noted(); len(got) > 0 {
		t.Errorf("the first worker acted: %v", got)
	}
}

// TestBadOrderStaysHere proves that a bad order is refused before it is passed on.
func TestBadOrderStaysHere(t *testing.T) {
	_, _, h := twoWorkers(t)
	if w := ask(h, "POST", "/v1/hosts/h-1/orders", `{"verb":"kick"}`); w.Code != 400 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestOwnerProblemPassesThrough proves that what the owner refuses is told as it is.
func TestOwnerProblemPassesThrough(t *testing.T) {
	_, _, h := twoWorkers(t)
	w := ask(h, "POST", "/v1/hosts/h-1/orders", `{"verb":"confirm-off"}`)
	if w.Code != 422 || !strings.Contains(w.Body.String(), "sign of life") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestReadsHaveLiveFacts proves that one host is read from its owner, and from here
// where the owner cannot answer.
func TestReadsHaveLiveFacts(t *testing.T) {
	first, _, h := twoWorkers(t)
	for _, path := range []string{"/v1/hosts/h-1", "/v1/hosts/h-1/explain"} {
		if w := ask(h, "GET", path, ""); w.Code != 200 || !strings.Contains(w.Body.String(), "live facts") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	for _, url := range []string{"", deadURL(t), busyURL(t)} {
		first.Mu.Lock()
		first.Elsewhere["h-1"] = url
		first.Mu.Unlock()
		for _, path := range []string{"/v1/hosts/h-1", "/v1/hosts/h-1/explain"} {
			if w := ask(h, "GET", path, ""); w.Code != 200 || !strings.Contains(w.Body.String(), "its health check passes") {
				t.Errorf("owner %q: %s: %d %s", url, path, w.Code, w.Body)
			}
		}
		if w := ask(h, "POST", "/v1/hosts/h-1/orders?dryRun=true", orderOn); w.Code != 200 {
			t.Errorf("owner %q: plan: %d %s", url, w.Code, w.Body)
		}
	}
}

// TestOrderWithoutOwner proves that an order that nobody can take is 503 where nothing
// was done, 504 where that is not known, and never acted upon here.
func TestOrderWithoutOwner(t *testing.T) {
	cases := []struct {
		name, url string
		status    int
	}{
		{"nobody owns it", "", 503},
		{"owner is dead", deadURL(t), 503},
		{"owner says 503", busyURL(t), 503},
		{"owner breaks off", breakingURL(t), 504},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			f := apitest.NewFleet()
			f.Elsewhere["h-1"] = c.url
			w := ask(api.NewHandler(f, api.HandlerOptions{}), "POST", "/v1/hosts/h-1/orders", orderOn)
			var p v1.Problem
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != c.status || p.Status != c.status || p.Hint == "" {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			if got := f.Noted(); len(got) > 0 {
				t.Errorf("acted: %v", got)
			}
		})
	}
}

// TestNoForwardingLoop proves that two workers that each think the other is the owner
// pass an order on once, and then say so.
func TestNoForwardingLoop(t *testing.T) {
	first, second, h := twoWorkers(t)
	s := httptest.NewServer(h)
	defer s.Close()
	second.Mu.Lock()
	second.Elsewhere["h-1"] = s.URL
	second.Mu.Unlock()
	w := ask(h, "POST", "/v1/hosts/h-1/orders", orderOn)
	if w.Code != 503 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if got := append(first.Noted(), second.Noted()...); len(got) > 0 {
		t.Errorf("acted: %v", got)
	}
	if w := ask(h, "GET", "/v1/hosts/h-1", ""); w.Code != 200 || !strings.Contains(w.Body.String(), "live facts") {
		t.Errorf("read: %d %s", w.Code, w.Body)
	}
}

// TestWorkersTellOfThemselves proves that links and lease in a list are each worker's own
// word: taken from the one that runs there now, and unknown, not zero, of one that is
// mute, dead, without a lease, or another process than the one on record.
func TestWorkersTellOfThemselves(t *testing.T) {
	mute := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-mute }))
	defer s.Close()
	defer close(mute)
	second := apitest.NewFleet()
	second.ChangeWorker("w-2", func(w *v1.Worker) { w.Answers, w.Links, w.LeaseLeft = v1.AnswersYes, new(0), "3.1s" })
	good := httptest.NewServer(api.NewHandler(second, api.HandlerOptions{}))
	defer good.Close()
	other := apitest.NewFleet()
	other.ChangeWorker("w-2", func(w *v1.Worker) { w.Boot, w.Answers, w.Links, w.LeaseLeft = "another", v1.AnswersYes, new(7), "3.1s" })
	reborn := httptest.NewServer(api.NewHandler(other, api.HandlerOptions{}))
	defer reborn.Close()

	known := v1.Worker{Answers: v1.AnswersYes, Links: new(0), LeaseLeft: "3.1s"}
	unknown := v1.Worker{Answers: v1.AnswersUnknown}
	for name, c := range map[string]struct {
		url  string
		want v1.Worker
	}{
		"answers": {good.URL, known}, "mute": {s.URL, unknown}, "dead": {deadURL(t), unknown}, "busy": {busyURL(t), unknown},
		"breaks off": {breakingURL(t), unknown}, "another process": {reborn.URL, unknown}, "no address": {"", unknown},
	} {
		t.Run(name, func(t *testing.T) {
			f := apitest.NewFleet()
			f.APIs = map[string]string{"w-2": c.url}
			h := api.NewHandler(f, api.HandlerOptions{})
			var one v1.Worker
			var list v1.List[v1.Worker]
			if err := json.Unmarshal(ask(h, "GET", "/v1/workers/w-2", "").Body.Bytes(), &one); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(ask(h, "GET", "/v1/workers", "").Body.Bytes(), &list); err != nil {
				t.Fatal(err)
			}
			for _, got := range []v1.Worker{one, list.Items[1]} {
				if d := cmp.Diff(c.want, v1.Worker{Answers: got.Answers, Links: got.Links, LeaseLeft: got.LeaseLeft}); d != "" {
					t.Errorf("(-want +got):\n%s", d)
				}
			}
			if w := list.Items[0]; w.Answers != v1.AnswersYes || w.Links == nil || *w.Links != 2 {
				t.Errorf("the one that was asked: %+v", w)
			}
		})
	}
}

// deadURL is an address where nothing listens.
func deadURL(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return "http://" + l.Addr().String()
}

// busyURL is a worker that is not ready for orders.
func busyURL(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }))
	t.Cleanup(s.Close)
	return s.URL
}

// breakingURL is a worker that dies while it has the order.
func breakingURL(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	t.Cleanup(s.Close)
	return s.URL
}
