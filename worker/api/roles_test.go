// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/trust"
	"github.com/holdfast-ha/holdfast/worker/api"
	"github.com/holdfast-ha/holdfast/worker/api/apitest"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	"github.com/holdfast-ha/holdfast/worker/pki"
	"github.com/holdfast-ha/holdfast/worker/pki/pkitest"
)

// pathOf fills the placeholders of a route's path.
func pathOf(r api.Route) string {
	return strings.NewReplacer("{id}", "h-1", "{device}", "bmc", "{name}", "preset", "{path...}", "z1").Replace(r.Path)
}

// Every route needs a role that its scope says, and who has less is refused before
// anything is looked at; no scope is unknown, for those would need the highest role only
// by default (agents.md "Trust").
func TestEveryRouteNeedsItsRole(t *testing.T) {
	k := &apitest.Keeper{}
	f := apitest.NewFleet()
	h := api.NewHandler(f, api.HandlerOptions{Keeper: k, Metrics: http.NotFoundHandler(), Rate: func() int { return 10_000 }})
	tokens := map[v1.Role]string{}
	for _, role := range v1.Roles {
		tokens[role] = k.Give(string(role), role)
	}
	for _, r := range api.Routes {
		if !api.ScopeKnown(r.Scope) {
			t.Errorf("%s %s: scope %q has no role", r.Method, r.Path, r.Scope)
		}
		if r.Method != "GET" && r.Role() == v1.Viewer {
			t.Errorf("%s %s changes something and needs no more than a viewer", r.Method, r.Path)
		}
		for _, role := range v1.Roles {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			req := httptest.NewRequestWithContext(ctx, r.Method, pathOf(r), strings.NewReader("not json"))
			req.Header.Set("Authorization", "Bearer "+tokens[role])
			w := httptest.NewRecorder()
			h.ServeHTTP(w, req)
			cancel()
			probe := r.Path == "/healthz" || r.Path == "/readyz"
			if refused := w.Code == http.StatusForbidden; refused != (!role.May(r.Role()) && !probe) {
				t.Errorf("%s %s as %s: %d %s, it needs %s", r.Method, r.Path, role, w.Code, w.Body, r.Role())
			}
		}
	}
}

// What a certificate says of its holder's role counts; one that says nothing makes a
// viewer, and a worker may pass on everything.
func TestRoleOfACertificate(t *testing.T) {
	lab := pkitest.New(t)
	s := secured(t, apitest.NewFleet(), lab.Issue(t, trust.Worker, "w1"), nil)
	for role, want := range map[string]map[string]int{
		"viewer":   {"GET /v1/hosts": 200, "POST /v1/hosts/h-1/maintenance": 403, "DELETE /v1/hosts/h-1": 403},
		"operator": {"GET /v1/hosts": 200, "POST /v1/hosts/h-1/maintenance": 200, "DELETE /v1/hosts/h-1": 403},
		"admin":    {"GET /v1/hosts": 200, "POST /v1/hosts/h-1/maintenance": 200, "PUT /v1/hosts/h-1": 200},
	} {
		rt := with(t, lab.Issue(t, trust.Operator, "u-"+role, func(o *pki.Options) { o.Role = role }), aWorker)
		for what, code := range want {
			method, path, _ := strings.Cut(what, " ")
			body := `{"on":true}`
			if method == "PUT" {
				body = `{"id":"h-1","partition":"z1/p1/c1"}`
			}
			if got, text, err := send(t, rt, method, s.URL+path, body); err != nil || got != code {
				t.Errorf("%s: %s: %d %s %v, want %d", role, what, got, text, err, code)
			}
		}
		if got, text, err := send(t, rt, "GET", s.URL+"/v1/auth/whoami", ""); err != nil || got != 200 || !strings.Contains(text, `"name":"operator/u-`+role+`","role":"`+role+`","by":"certificate"`) {
			t.Errorf("%s: whoami %d %s %v", role, got, text, err)
		}
	}
}

// A token is known by its hash alone, ends at once when it is revoked, and beats the
// certificate beside it; a wrong one is 401 even where nobody is asked.
func TestBearerTokens(t *testing.T) {
	k := &apitest.Keeper{}
	h := api.NewHandler(apitest.NewFleet(), api.HandlerOptions{Keeper: k})
	token := k.Give("ci", v1.Viewer)
	if w := ask(h, "GET", "/v1/hosts", "", "Authorization", "Bearer "+token); w.Code != 200 {
		t.Errorf("a good token: %d %s", w.Code, w.Body)
	}
	k.Take(token)
	for _, bad := range []string{token, "hft.x", "", trust.NewToken().Bearer()} {
		if w := ask(h, "GET", "/v1/hosts", "", "Authorization", "Bearer "+bad); w.Code != http.StatusUnauthorized || w.Header().Get("WWW-Authenticate") == "" || bad != "" && strings.Contains(w.Body.String(), bad) {
			t.Errorf("token %q: %d %s", bad, w.Code, w.Body)
		}
	}
	if w := ask(h, "GET", "/v1/auth/whoami", "", v1.ActorHeader, "ann"); !strings.Contains(w.Body.String(), `"role":"admin","by":"loopback"`) {
		t.Errorf("on loopback: %s", w.Body)
	}
}

// Who asks too often hears so, is not served, and takes nothing from others.
func TestRateOfOneCaller(t *testing.T) {
	k := &apitest.Keeper{}
	f := apitest.NewFleet()
	h := api.NewHandler(f, api.HandlerOptions{Keeper: k, Rate: func() int { return 2 }})
	busy, calm := k.Give("busy", v1.Admin), k.Give("calm", v1.Viewer)
	limited := 0
	for range 50 {
		w := ask(h, "POST", "/v1/hosts/h-1/maintenance", `{"on":true}`, "Authorization", "Bearer "+busy)
		if w.Code == http.StatusTooManyRequests && w.Header().Get("Retry-After") != "" {
			limited++
		}
	}
	if limited == 0 || len(f.Noted()) != 50-limited {
		t.Errorf("%d of 50 were refused, %d were done", limited, len(f.Noted()))
	}
	if w := ask(h, "GET", "/v1/hosts", "", "Authorization", "Bearer "+calm); w.Code != 200 {
		t.Errorf("another caller: %d", w.Code)
	}
}

// A watch ends when its caller's token does.
func TestWatchEndsWithItsToken(t *testing.T) {
	k := &apitest.Keeper{}
	s := httptest.NewServer(api.NewHandler(apitest.NewFleet(), api.HandlerOptions{Keeper: k}))
	t.Cleanup(s.Close)
	token := k.Give("ci", v1.Viewer)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", s.URL+"/v1/events?watch=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	k.Take(token)
	for b := make([]byte, 4096); err == nil; {
		_, err = resp.Body.Read(b)
	}
	if ctx.Err() != nil {
		t.Error("the watch goes on")
	}
}
