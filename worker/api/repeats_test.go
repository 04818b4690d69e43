// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/holdfast-ha/holdfast/worker/api"
	"github.com/holdfast-ha/holdfast/worker/api/apitest"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// A named request is carried out once, whichever worker hears it again; the same name for
// something else, or for somebody else, is another matter.
func TestNamedRequestIsCarriedOutOnce(t *testing.T) {
	f, shared := apitest.NewFleet(), &apitest.Repeats{}
	first := api.NewHandler(f, api.HandlerOptions{Repeats: shared})
	second := api.NewHandler(f, api.HandlerOptions{Repeats: shared})
	const path, body = "/v1/budgets/zone/z1:grant", `{"reason":"test","extra":5,"for":"4h"}`
	one := ask(first, "POST", path, body, v1.KeyHeader, "k-1", v1.ActorHeader, "ann")
	two := ask(second, "POST", path, body, v1.KeyHeader, "k-1", v1.ActorHeader, "ann")
	if one.Code != 200 || two.Code != 200 || one.Body.String() != two.Body.String() || two.Header().Get(v1.RepeatedHeader) == "" || one.Header().Get(v1.RepeatedHeader) != "" {
		t.Errorf("%d %s, then %d %s", one.Code, one.Body, two.Code, two.Body)
	}
	if got := f.Noted(); len(got) != 1 {
		t.Errorf("carried out: %v", got)
	}
	var p v1.Problem
	other := ask(first, "POST", path, `{"reason":"test","extra":6,"for":"4h"}`, v1.KeyHeader, "k-1", v1.ActorHeader, "ann")
	if err := json.Unmarshal(other.Body.Bytes(), &p); err != nil || p.Code != v1.CodeKeyReused || other.Code != 422 {
		t.Errorf("the key for another request: %d %s", other.Code, other.Body)
	}
	if w := ask(first, "POST", path, body, v1.KeyHeader, "k-1", v1.ActorHeader, "bob"); w.Code != 200 || len(f.Noted()) != 2 {
		t.Errorf("the key of somebody else: %d %s", w.Code, w.Body)
	}
	for _, bad := range []string{"a b", strings.Repeat("k", 201)} {
		if w := ask(first, "POST", path, body, v1.KeyHeader, bad); w.Code != 400 || !strings.Contains(w.Body.String(), `"field":"Idempotency-Key"`) {
			t.Errorf("key %.10q: %d %s", bad, w.Code, w.Body)
		}
	}
	if w := ask(first, "PUT", "/v1/hosts/h-1", `{"partition":"z1"}`, v1.KeyHeader, "k-2"); w.Code != 400 {
		t.Errorf("a key where a repeat does no harm: %d", w.Code)
	}
}

// What left no trace may be tried again under its name; a dry run has no name.
func TestNamedRequestThatDidNothing(t *testing.T) {
	f, shared := apitest.NewFleet(), &apitest.Repeats{}
	h := api.NewHandler(f, api.HandlerOptions{Repeats: shared})
	if w := ask(h, "POST", "/v1/hosts/h-9/orders", orderOn, v1.KeyHeader, "k"); w.Code != 404 || len(shared.All()) != 0 {
		t.Errorf("%d, kept %v", w.Code, shared.All())
	}
	if w := ask(h, "POST", "/v1/hosts/h-1/orders?dryRun=true", orderOn, v1.KeyHeader, "k"); w.Code != 200 || len(shared.All()) != 0 {
		t.Errorf("dry: %d, kept %v", w.Code, shared.All())
	}
	if w := ask(h, "POST", "/v1/hosts/h-1/orders", orderOn, v1.KeyHeader, "k"); w.Code != 200 || len(f.Noted()) != 1 {
		t.Errorf("%d %v", w.Code, f.Noted())
	}
}

// slow hears an order and hears its repetition while it is at it.
type slow struct {
	*apitest.Fleet
	meanwhile func()
}

func (s slow) Order(ctx context.Context, who, id string, o v1.OrderRequest) (v1.OrderResult, error) {
	s.meanwhile()
	return s.Fleet.Order(ctx, who, id, o)
}

// A repetition that comes while the first is under way is told so and does nothing.
func TestNamedRequestUnderWay(t *testing.T) {
	b := slow{Fleet: apitest.NewFleet()}
	var h http.Handler
	again := 0
	b.meanwhile = func() {
		if again++; again == 1 {
			if w := ask(h, "POST", "/v1/hosts/h-1/orders", orderOn, v1.KeyHeader, "k"); w.Code != 409 || !strings.Contains(w.Body.String(), "still carried out") {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		}
	}
	h = api.NewHandler(&b, api.HandlerOptions{Repeats: &apitest.Repeats{}})
	if w := ask(h, "POST", "/v1/hosts/h-1/orders", orderOn, v1.KeyHeader, "k"); w.Code != 200 || len(b.Noted()) != 1 || again != 1 {
		t.Errorf("%d %s, noted %v", w.Code, w.Body, b.Noted())
	}
}

// oneSecret makes tokens with a secret.
type oneSecret struct{ apitest.Keeper }

func (*oneSecret) CreateToken(context.Context, string, v1.TokenRequest) (v1.Token, error) {
	return v1.Token{ID: "t2", Secret: "canary"}, nil
}

// A secret that is told once is not kept, and not told twice.
func TestNamedRequestKeepsNoSecret(t *testing.T) {
	shared := &apitest.Repeats{}
	h := api.NewHandler(apitest.NewFleet(), api.HandlerOptions{Repeats: shared, Keeper: &oneSecret{}})
	one := ask(h, "POST", "/v1/auth/tokens", `{"name":"ci","role":"viewer"}`, v1.KeyHeader, "k")
	two := ask(h, "POST", "/v1/auth/tokens", `{"name":"ci","role":"viewer"}`, v1.KeyHeader, "k")
	if !strings.Contains(one.Body.String(), "canary") || two.Code != 200 || strings.Contains(two.Body.String(), "canary") || !strings.Contains(two.Body.String(), `"id":"t2"`) {
		t.Errorf("%s, then %d %s", one.Body, two.Code, two.Body)
	}
	for _, r := range shared.All() {
		if strings.Contains(string(r.Answer), "canary") {
			t.Errorf("on record: %s", r.Answer)
		}
	}
}

// A watch or a list that goes on after a revision is told when that is no longer possible,
// before anything else.
func TestEventsNoLongerKept(t *testing.T) {
	f, h := served()
	f.Kept = 92
	for _, r := range []struct{ target, last string }{{"/v1/events?after=90", ""}, {"/v1/events?watch=true&after=90", ""}, {"/v1/events?watch=true", "91"}} {
		var headers []string
		if r.last != "" {
			headers = []string{"Last-Event-ID", r.last}
		}
		w := ask(h, "GET", r.target, "", headers...)
		var p v1.Problem
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != http.StatusGone || p.Code != v1.CodeCompacted {
			t.Errorf("%s %s: %d %s", r.target, r.last, w.Code, w.Body)
		}
	}
	if w := ask(h, "GET", "/v1/events?after=92", ""); w.Code != 200 {
		t.Errorf("from what is kept on: %d %s", w.Code, w.Body)
	}
}
