// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/worker/api"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	"github.com/holdfast-ha/holdfast/worker/hook"
)

// receiver is a webhook receiver that can be away.
type receiver struct {
	mu   sync.Mutex
	away bool
	got  []hook.CloudEvent
	bad  []string // signatures that do not fit
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	var e hook.CloudEvent
	if err == nil {
		err = json.Unmarshal(body, &e)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.away:
		w.WriteHeader(http.StatusServiceUnavailable)
	case err != nil || req.Header.Get(hook.HeaderID) != e.ID || req.Header.Get(hook.HeaderSignature) == "":
		r.bad = append(r.bad, e.ID)
	default:
		r.got = append(r.got, e)
	}
}

func (r *receiver) leave(away bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.away = away
}

// names are what the received events of one type tell, gaps as "gap".
func (r *receiver) names() (out []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.got {
		switch e.Type {
		case hook.TypeGap:
			out = append(out, "gap")
		case hook.TypePrefix + "test.made":
			out = append(out, e.Subject)
		}
	}
	return out
}

func numbered(from, to int) (out []string) {
	for i := from; i <= to; i++ {
		out = append(out, fmt.Sprintf("hosts/h%03d", i))
	}
	return out
}

// Over a real etcd: a receiver that was away while its hook's owner left gets what it
// missed from the next owner, once; what retention took comes as a gap; URL and key are
// nowhere to be read.
func TestHooksDeliverTheLog(t *testing.T) {
	const url, key = "/kanarie-url", "kanarie-key-0123456789"
	v := newVault(t)
	start := func(id string) (*Worker, *v1.Client, func()) {
		w, err := New(Options{ID: id, Etcd: v.endpoints, ListenAPI: "127.0.0.1:0", ListenAgents: "127.0.0.1:0", LeaseTTL: v.ttl, InsecureLoopback: true, KeyRing: v.ring,
			Logger: slog.New(slog.NewTextHandler(&v.log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
		if err != nil {
			t.Fatal(err)
		}
		stop := background(t, w.Run)
		eventually(t, "worker "+id+" is ready", func() bool {
			m, _ := read[v1.Worker](t, v.rig, leases.WorkerKey(id))
			return m.State == stateReady
		})
		c, err := v1.NewClient(v1.Options{Endpoints: []string{w.apiAddr}, Actor: "ann", Transport: &http.Transport{DisableKeepAlives: true}})
		if err != nil {
			t.Fatal(err)
		}
		return w, c, stop
	}
	w1, c1, stop1 := start("w1")
	eventually(t, "w1 owns all slots", func() bool {
		w1.mu.Lock()
		defer w1.mu.Unlock()
		return len(w1.claims) == w1.slotN
	})
	r := &receiver{}
	s := httptest.NewServer(r)
	t.Cleanup(s.Close)
	tell := func(from, to int) {
		t.Helper()
		for i := from; i <= to; i++ {
			x := v1.Event{ID: newEventID(), At: time.Now().UTC(), Type: "test.made", Severity: "info", Host: fmt.Sprintf("h%03d", i)}
			v.put(t, leases.EventKey(x.ID), x)
		}
	}

	tell(1, 3) // before the hook: not for it
	for bad, field := range map[string]string{"http://r.example" + url: "url", "": "url"} {
		_, err := c1.PutHook(t.Context(), "k", v1.HookRequest{HookSpec: v1.HookSpec{Kind: v1.HookWeb}, URL: v1.Password(bad), Key: v1.Password(key)}, 0)
		var p *v1.Problem
		if !errors.As(err, &p) || p.Field != field {
			t.Errorf("url %q: %v", bad, err)
		}
	}
	h, err := c1.PutHook(t.Context(), "k", v1.HookRequest{HookSpec: v1.HookSpec{Kind: v1.HookWeb, Types: []string{"test.*"}, RetryMax: "1s"}, URL: v1.Password(s.URL + url), Key: v1.Password(key)}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if h.Target != s.URL || h.SealedKey != "k1" {
		t.Errorf("as it is shown: %+v", h)
	}
	if x, err := c1.TestHook(t.Context(), "k"); err != nil || !x.OK {
		t.Errorf("test: %+v %v", x, err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			h, err := c1.Hook(t.Context(), "k")
			t.Logf("%s\nreceiver %+v\nhook %+v %v", v.log.String(), r.got, h, err)
		}
	})
	tell(4, 6)
	eventually(t, "new events are delivered", func() bool { return slices.Equal(r.names(), numbered(4, 6)) })

	r.leave(true)
	tell(7, 20)
	eventually(t, "it is shown as failing", func() bool {
		h, err := c1.Hook(t.Context(), "k")
		return err == nil && h.Status.State == "failing" && strings.Contains(h.Status.LastError, "503") && h.Status.Behind >= 14
	})
	w2, c2, _ := start("w2")
	stop1()
	eventually(t, "w2 delivers it", func() bool { _, ok := w2.hooks.shown()["k"]; return ok })
	r.leave(false)
	eventually(t, "what was missed is delivered by the next owner, once", func() bool { return slices.Equal(r.names(), numbered(4, 20)) })

	if _, err := c2.EnableHook(t.Context(), "k", v1.Switch{On: false}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nobody delivers it", func() bool { _, ok := w2.hooks.shown()["k"]; return !ok })
	tell(21, 30)
	var all []v1.Event
	eventually(t, "the log shows them", func() bool {
		all, err = (*backend)(w2).Events(t.Context(), api.EventFilter{Type: "test.made"})
		return err == nil && len(all) == 30
	})
	cut := eventsCut{V: 1, At: hook.Position{Revision: all[24].Revision, ID: all[24].ID}}
	ops := []leases.Op{leases.Put(leases.EventsCutKey(), cut)}
	for _, x := range all[:25] {
		ops = append(ops, leases.Delete(leases.EventKey(x.ID)))
	}
	if _, err := v.client.Commit(t.Context(), leases.Unowned(), ops...); err != nil {
		t.Fatal(err)
	}
	if _, err := c2.EnableHook(t.Context(), "k", v1.Switch{On: true, Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the gap is told, then the rest", func() bool {
		return slices.Equal(r.names(), slices.Concat(numbered(4, 20), []string{"gap"}, numbered(26, 30)))
	})
	eventually(t, "the gap is warned of", func() bool {
		return slices.ContainsFunc(w2.health.list(), func(x api.Warning) bool { return x.Code == "WebhookGap" })
	})
	if got := v.events(t, 0); !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, hook.NoticeGap) }) {
		t.Errorf("the log tells of no gap: %v", got)
	}
	r.mu.Lock()
	if len(r.bad) > 0 {
		t.Errorf("not whole: %v", r.bad)
	}
	r.mu.Unlock()

	kvs, _, err := v.client.List(t.Context(), leases.Root)
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range kvs {
		if strings.Contains(string(kv.Value), "kanarie") {
			t.Errorf("%s holds a secret: %s", kv.Key, kv.Value)
		}
	}
	if strings.Contains(v.log.String(), "kanarie") {
		t.Error("a worker's log holds a secret")
	}
	for _, c := range []func() (any, error){
		func() (any, error) { return c2.Hooks(t.Context()) }, func() (any, error) { return c2.Audits(t.Context(), "", 100) },
	} {
		x, err := c()
		if text := fmt.Sprintf("%+v", x); err != nil || strings.Contains(text, "kanarie") || !strings.Contains(text, s.URL) {
			t.Errorf("shown: %v %s", err, text)
		}
	}
	if err := c2.DeleteHook(t.Context(), "k", -1); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it ends", func() bool { _, ok := w2.hooks.shown()["k"]; return !ok })
}
