// SPDX-License-Identifier: Apache-2.0

package v1_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-ha/holdfast/worker/api"
	"github.com/holdfast-ha/holdfast/worker/api/apitest"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// serve starts a worker's API for a backend.
func serve(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

func worker(t *testing.T, f *apitest.Fleet) *httptest.Server {
	t.Helper()
	return serve(t, api.NewHandler(f, api.HandlerOptions{Version: "1.2"}))
}

func client(t *testing.T, endpoints ...string) *v1.Client {
	t.Helper()
	c, err := v1.NewClient(v1.Options{Endpoints: endpoints, Timeout: 3 * time.Second, Actor: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// dead is an address where nothing listens.
func dead(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return l.Addr().String()
}

// mute accepts connections and never answers, as a stopped worker does.
func mute(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

// TestEveryCall proves that each method of the client speaks the same API as the server.
func TestEveryCall(t *testing.T) {
	ctx := t.Context()
	f := apitest.NewFleet()
	routes := &served{inner: api.NewHandler(f, api.HandlerOptions{Version: "1.2", Keeper: &apitest.Keeper{}, Hooks: apitest.NewHooks(), Support: apitest.Support{}})}
	c := client(t, serve(t, routes).URL)
	check := func(name string, got, want any, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
	hosts, err := c.Hosts(ctx, v1.HostQuery{Partition: "z1", States: []string{"SUSPECT"}, Labels: "rack=8", Sort: "-state"})
	check("Hosts", len(hosts), 1, err)
	h, err := c.Host(ctx, "h-1")
	check("Host", h.Status, f.HostMap["h-1"].Status, err)
	h, err = c.PutHost(ctx, h.Spec, h.Revision, true)
	check("PutHost dry", h.Revision, int64(11), err)
	h, err = c.PutHost(ctx, h.Spec, h.Revision, false)
	check("PutHost", h.Revision, int64(101), err)
	err = c.DeleteHost(ctx, "h-3", 13)
	check("DeleteHost", len(f.HostMap), 3, err)
	x, err := c.ExplainHost(ctx, "h-2")
	check("ExplainHost", x.Subject, "host h-2", err)
	h, err = c.SetHost(ctx, "h-1", "maintenance", v1.Switch{On: true, Reason: "fan"})
	check("SetHost", h.Spec.Maintenance, true, err)
	p, err := c.PlanOrder(ctx, "h-1", v1.OrderRequest{Verb: "off"})
	check("PlanOrder", p.Verb, "off", err)
	o, err := c.Order(ctx, "h-1", v1.OrderRequest{Verb: "off"})
	check("Order", o.Message, "on record", err)
	px, err := c.ExplainPower(ctx, "h-1")
	check("ExplainPower", px.Levels[0].Devices[0].Name, "bmc", err)
	pp, err := c.ChangePowerProfile(ctx, "zone/z1", v1.ProfileChange{Set: map[string]string{"class": "slow"}, Unset: []string{"quirks"}}, -1, true)
	check("ChangePowerProfile dry", len(pp.Fields), 2, err)
	pp, err = c.ChangePowerProfile(ctx, "zone/z1", v1.ProfileChange{Set: map[string]string{"class": "slow"}}, -1, false)
	check("ChangePowerProfile", pp.Changed, []string{"h-1"}, err)
	pp, err = c.PowerProfile(ctx, "zone/z1")
	check("PowerProfile", len(pp.Fields), 2, err)
	parts, err := c.Partitions(ctx)
	check("Partitions", len(parts), 2, err)
	part, err := c.Partition(ctx, "z1/p1/c1")
	check("Partition", part, f.PartMap["z1/p1/c1"], err)
	part, err = c.PutPartition(ctx, v1.PartitionSpec{V: 1, Path: "z3"}, 0)
	check("PutPartition", part.State, "INACTIVE", err)
	part, err = c.SetPartition(ctx, "z1/p1/c1", "ha", v1.Switch{})
	check("SetPartition", part.State, "NONE", err)
	x, err = c.ExplainIncident(ctx, "i-2")
	check("ExplainIncident", x.Subject, "incident i-2 of host h-2", err)
	exported, err := c.ExportIncident(ctx, "i-1")
	check("ExportIncident", exported.Incident.ID, "i-1", err)
	x, err = c.ExplainPartition(ctx, "z1")
	check("ExplainPartition", x.Subject, "partition z1", err)
	ws, err := c.Workers(ctx)
	check("Workers", ws, f.WorkerL, err)
	one, err := c.Worker(ctx, "w-2")
	check("Worker", one, f.WorkerL[1], err)
	fp, err := c.PlanFleet(ctx, []string{"w-1"}, []v1.Joiner{{ID: "w-8"}, {ID: "w-9", Weight: 3}})
	check("PlanFleet", fp.Add, []v1.Joiner{{ID: "w-8"}, {ID: "w-9", Weight: 3}}, err)
	fp, err = c.PlanDrain(ctx, "w-1", v1.DrainRequest{})
	check("PlanDrain", fp.Without, []string{"w-1"}, err)
	one, err = c.DrainWorker(ctx, "w-1", v1.DrainRequest{Reason: "kernel"})
	check("DrainWorker", one.Drain.Reason, "kernel", err)
	fp, err = c.PlanUndrain(ctx, "w-1", v1.DrainRequest{})
	check("PlanUndrain", fp.Without, []string(nil), err)
	one, err = c.UndrainWorker(ctx, "w-1", v1.DrainRequest{})
	check("UndrainWorker", one.State, "ready", err)
	gen, err := c.RaiseGeneration(ctx, v1.GenerationRequest{}, true)
	check("RaiseGeneration dry", gen.To, int64(2), err)
	gen, err = c.RaiseGeneration(ctx, v1.GenerationRequest{From: 1}, false)
	check("RaiseGeneration", gen.To, int64(2), err)
	as, err := c.Areas(ctx)
	check("Areas", as, f.AreaL, err)
	area, err := c.Area(ctx, "rack/z1/7")
	check("Area", area, f.AreaL[1], err)
	bs, err := c.Budgets(ctx, "pod/z1/p1")
	check("Budgets", len(bs), 2, err)
	budget, err := c.GrantBudget(ctx, "zone/z1", v1.BudgetRequest{Reason: "test", Extra: 5, For: "4h"})
	check("GrantBudget", budget.Limit, 25, err)
	budget, err = c.ResetBudget(ctx, "zone/z1", v1.BudgetRequest{Reason: "over"})
	check("ResetBudget", budget.Used, 0, err)
	is, err := c.Incidents(ctx, "h-3")
	check("Incidents", len(is), 1, err)
	i, err := c.Incident(ctx, "i-2")
	check("Incident", i, f.IncL[0], err)
	es, err := c.Events(ctx, v1.EventQuery{Severity: "page", Since: apitest.Start})
	check("Events", es, f.EventL[:1], err)
	s, err := c.PutSetting(ctx, "zone/z1", "ha.policy", v1.SettingRequest{Value: "fence"}, false)
	check("PutSetting", s.Value, "fence", err)
	ss, err := c.Settings(ctx, "zone/z1")
	check("Settings", ss[1].Value, "fence", err)
	s, err = c.DeleteSetting(ctx, "zone/z1", "ha.policy", "done")
	check("DeleteSetting", s.Value, "recover", err)
	s, err = c.Disarm(ctx, v1.ArmRequest{Scope: "zone/z1", For: "2h"})
	check("Disarm", s.Value, "false", err)
	s, err = c.Arm(ctx, v1.ArmRequest{Scope: "zone/z1"})
	check("Arm", s.Value, "true", err)
	cs, err := c.Allocate(ctx, "z1", true)
	check("Allocate", cs[1].Allowed, false, err)
	v, err := c.Version(ctx)
	check("Version", v.Version, "1.2", err)
	health, err := c.Health(ctx)
	check("Health", health, v1.Health{Ready: true}, err)
	set, err := c.Setting(ctx, "zone/z1", "ha.policy")
	check("Setting", set.Value, "recover", err)
	secret, err := c.PutSecret(ctx, "h-1", "bmc", v1.SecretRequest{Password: v1.Password("x")}, 0)
	check("PutSecret", secret.Set, true, err)
	secret, err = c.Secret(ctx, "h-1", "bmc")
	check("Secret", secret.Key, apitest.NewestKey, err)
	err = c.DeleteSecret(ctx, "h-1", "bmc", secret.Revision)
	check("DeleteSecret", nil, nil, err)
	secrets, err := c.Secrets(ctx)
	check("Secrets", len(secrets) > 0, true, err)
	sealed, err := c.Reseal(ctx, v1.ResealRequest{Force: true}, false)
	check("Reseal", sealed.Left, 0, err)
	agents, err := c.Agents(ctx, "static")
	check("Agents", agents[0].Algorithm, "static", err)
	agent, err := c.RebalanceAgent(ctx, "h-1")
	check("RebalanceAgent", agent.Host, "h-1", err)
	resource(t, c, "p-1", f.PoolL[0])
	resource(t, c, "v-1", f.VolumeL[0])
	resource(t, c, "t-1", f.TemplateL[0])
	resource(t, c, "i-1", f.InstanceL[0])
	cmd, err := c.NewCommand(ctx, v1.CommandRequest{Kind: "copy", Volume: "v-1", Pool: "p-1", As: "v-2"})
	check("NewCommand", cmd.State, "PENDING", err)
	cmds, err := c.Commands(ctx, v1.CommandQuery{})
	check("Commands", len(cmds), len(f.CommandL), err)
	again, err := c.Command(ctx, cmd.ID)
	check("Command", again.ID, cmd.ID, err)
	x, err = c.ExplainCommand(ctx, cmd.ID)
	check("ExplainCommand", x.State, "PENDING", err)
	for _, verb := range v1.CommandVerbs {
		var o v1.CommandOrder
		if verb == "resolve" {
			o.Completed = new(bool)
		}
		again, err = c.OrderCommand(ctx, cmd.ID, verb, o)
		check(verb, again.ID, cmd.ID, err)
	}
	for _, what := range []string{"ha", "enabled"} {
		_, err = c.SetHost(ctx, "h-1", what, v1.Switch{On: true})
		check("SetHost "+what, nil, nil, err)
	}
	_, err = c.SetPartition(ctx, "z1/p1/c1", "enabled", v1.Switch{On: true})
	check("SetPartition enabled", nil, nil, err)
	who, err := c.Whoami(ctx)
	check("Whoami", who.Name, "ann", err)
	tok, err := c.CreateToken(ctx, v1.TokenRequest{Name: "ci", Role: v1.Viewer})
	check("CreateToken", tok.ID, "t2", err)
	toks, err := c.Tokens(ctx)
	check("Tokens", len(toks), 1, err)
	err = c.RevokeToken(ctx, "t1", "x")
	check("RevokeToken", nil, nil, err)
	join, err := c.CreateJoinToken(ctx, v1.JoinTokenRequest{Host: "h-1"})
	check("CreateJoinToken", join.Host, "h-1", err)
	joins, err := c.JoinTokens(ctx)
	check("JoinTokens", len(joins), 1, err)
	err = c.RevokeJoinToken(ctx, "t1", "x")
	check("RevokeJoinToken", nil, nil, err)
	auth, err := c.CreateAuthority(ctx, v1.AuthorityRequest{})
	check("CreateAuthority", auth.ID, "t2", err)
	auths, err := c.Authorities(ctx)
	check("Authorities", len(auths), 1, err)
	err = c.RetireAuthority(ctx, "t1", "x", true)
	check("RetireAuthority", nil, nil, err)
	certs, err := c.Certificates(ctx, "h-1")
	check("Certificates", certs[0].Identity, "host/h-1", err)
	certs, err = c.RevokeCertificates(ctx, v1.RevokeRequest{Serials: []string{"1f"}})
	check("RevokeCertificates", certs[0].Serial, "1f", err)
	audits, err := c.Audits(ctx, "h-1", 10)
	check("Audits", len(audits), 1, err)

	hooks, err := c.Hooks(ctx)
	check("Hooks", len(hooks) > 0, true, err)
	name := hooks[0].Name
	hook, err := c.Hook(ctx, name)
	check("Hook", hook.Name, name, err)
	hook, err = c.EnableHook(ctx, name, v1.Switch{On: true})
	check("EnableHook", hook.Name, name, err)
	sent, err := c.TestHook(ctx, name)
	check("TestHook", sent.Hook, name, err)
	hook, err = c.PutHook(ctx, name, v1.HookRequest{HookSpec: hook.HookSpec}, hook.Revision)
	check("PutHook", hook.Name, name, err)
	err = c.DeleteHook(ctx, name, hook.Revision)
	check("DeleteHook", nil, nil, err)
	own, err := c.Support(ctx, "w-1", true)
	check("Support", own.Worker != "", true, err)
	_, err = c.Records(ctx, "hosts")
	check("Records", nil, nil, err)

	for _, r := range api.Routes {
		if !strings.HasPrefix(r.Path, "/v1/") {
			continue // for probes, scrapers and generators of clients
		}
		if !slices.ContainsFunc(routes.seen(), func(got string) bool { return routePattern(r).MatchString(got) }) {
			t.Errorf("%s %s: no method of the client asks for it", r.Method, r.Path)
		}
	}
	for _, call := range f.Noted() {
		if !strings.HasPrefix(call, "ann@127.0.0.1: ") {
			t.Errorf("not in the caller's name: %s", call)
		}
	}
}

// resource reads, declares and forgets one.
func resource[T v1.Resource](t *testing.T, c *v1.Client, id string, want T) {
	t.Helper()
	all, err := v1.Resources[T](t.Context(), c)
	if err != nil || len(all) == 0 {
		t.Fatalf("list: %v %v", all, err)
	}
	have, err := v1.GetResource[T](t.Context(), c, id)
	if d := cmp.Diff(want, have); err != nil || d != "" {
		t.Errorf("get %s: %v %s", id, err, d)
	}
	_, _, rev := have.Named()
	put, err := v1.PutResource(t.Context(), c, have, rev, false, false)
	if err != nil {
		t.Fatal(err)
	}
	_, _, rev = put.Named()
	if err := v1.DeleteResource[T](t.Context(), c, id, rev); err != nil {
		t.Error(err)
	}
}

// served notes what is asked for.
type served struct {
	inner http.Handler
	mu    sync.Mutex
	what  []string
}

func (s *served) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.what = append(s.what, r.Method+" "+r.URL.Path)
	s.mu.Unlock()
	s.inner.ServeHTTP(w, r)
}

func (s *served) seen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.what)
}

// routePattern matches what is asked of one route.
func routePattern(r api.Route) *regexp.Regexp {
	p := regexp.QuoteMeta(r.Method + " " + r.Path)
	p = strings.NewReplacer(`\{path\.\.\.\}`, `[^:]+`, `\{id\}`, `[^/]+`, `\{device\}`, `[^/]+`, `\{name\}`, `[^/]+`).Replace(p)
	return regexp.MustCompile("^" + p + "$")
}

// A dry run under the context reaches every change, also those that answer nothing, and
// nothing is done.
func TestDryRunOfTheContext(t *testing.T) {
	f := apitest.NewFleet()
	c := client(t, worker(t, f).URL)
	var will v1.DryRun
	ctx := v1.WithDryRun(t.Context(), &will)
	h, err := c.SetHost(ctx, "h-1", "maintenance", v1.Switch{On: true})
	if err != nil || !h.Spec.Maintenance {
		t.Errorf("%+v %v", h, err)
	}
	if err := c.DeleteHost(ctx, "h-1", 11); err != nil || len(will.Will) != 1 {
		t.Errorf("%v %v", will, err)
	}
	if _, err := c.Arm(ctx, v1.ArmRequest{Scope: "global"}); err != nil || len(f.Noted()) > 0 {
		t.Errorf("%v, done: %v", err, f.Noted())
	}
	var p *v1.Problem
	if err := c.DeleteHost(ctx, "h-1", 10); !errors.As(err, &p) || p.Code != v1.CodePrecondition || p.Have != 11 {
		t.Errorf("a condition that does not hold: %v", err)
	}
}

// A named POST that got no answer is tried at the next worker, and done once.
func TestNamedRequestIsTriedAgain(t *testing.T) {
	f, shared := apitest.NewFleet(), &apitest.Repeats{}
	h := api.NewHandler(f, api.HandlerOptions{Repeats: shared})
	lost := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			h.ServeHTTP(w, r)
			return
		}
		h.ServeHTTP(httptest.NewRecorder(), r) // it is done, and nobody hears of it
		panic(http.ErrAbortHandler)
	}))
	c := client(t, lost.URL, serve(t, h).URL)
	o, err := c.Order(v1.WithKey(t.Context(), "k-1"), "h-1", v1.OrderRequest{Verb: "on"})
	if err != nil || o.Message != "on record" || len(f.Noted()) != 1 {
		t.Errorf("%+v %v, done: %v", o, err, f.Noted())
	}
}

// A client that says on whose behalf it asks names each POST: the only worker, whose first
// answer was lost, is asked again, and told to wait while it is still at it; two requests have
// two names, and one that answers a secret has none.
func TestRunNamesItsRequests(t *testing.T) {
	f, h := apitest.NewFleet(), http.Handler(nil)
	var mu sync.Mutex
	var keys []string
	s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		keys = append(keys, r.Header.Get(v1.KeyHeader))
		n := len(keys)
		mu.Unlock()
		switch n {
		case 1: // it is done, and nobody hears of it
			h.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		case 2:
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusConflict)
			_, _ = w.Write([]byte(`{"code":"conflict","status":409,"detail":"is still carried out"}`))
		default:
			h.ServeHTTP(w, r)
		}
	}))
	h = api.NewHandler(f, api.HandlerOptions{Repeats: &apitest.Repeats{}, Keeper: &apitest.Keeper{}})
	c, err := v1.NewClient(v1.Options{Endpoints: []string{s.URL}, Run: "run", Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	o, err := c.Order(t.Context(), "h-1", v1.OrderRequest{Verb: "on"})
	if err != nil || o.Message != "on record" || len(f.Noted()) != 1 {
		t.Errorf("%+v %v, done: %v", o, err, f.Noted())
	}
	if _, err := c.Order(t.Context(), "h-1", v1.OrderRequest{Verb: "on"}); err != nil || len(f.Noted()) != 2 {
		t.Errorf("asked for again: %v, done: %v", err, f.Noted())
	}
	if _, err := c.PlanOrder(t.Context(), "h-1", v1.OrderRequest{Verb: "on"}); err != nil {
		t.Error(err)
	}
	if _, err := c.CreateToken(t.Context(), v1.TokenRequest{Name: "x", Role: "viewer"}); err != nil {
		t.Error(err)
	}
	if d := cmp.Diff([]string{"run-1", "run-1", "run-1", "run-2", "run-3", ""}, keys); d != "" {
		t.Errorf("names (-want +got):\n%s", d)
	}
}

// A named request of which nobody tells the end is not reported as one that was not made.
func TestNamedRequestWithoutAnAnswer(t *testing.T) {
	asked := 0
	s := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		asked++
		panic(http.ErrAbortHandler)
	}))
	c, err := v1.NewClient(v1.Options{Endpoints: []string{s.URL}, Run: "run", Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Order(t.Context(), "h-1", v1.OrderRequest{Verb: "on"})
	var p *v1.Problem
	if !errors.As(err, &p) || p.Code != v1.CodeUnknownOutcome || asked != 2 {
		t.Errorf("%v after %d requests, want an unknown outcome after two", err, asked)
	}
}

// TestErrorsAreProblems proves that errors keep code, field, status and hint.
func TestErrorsAreProblems(t *testing.T) {
	c := client(t, worker(t, apitest.NewFleet()).URL)
	_, err := c.Host(t.Context(), "h 9/x")
	var p *v1.Problem
	if !errors.As(err, &p) || p.Code != v1.CodeNotFound || p.Status != 404 || p.Hint == "" || p.Detail != "host h 9/x: not found" {
		t.Errorf("got %#v", err)
	}
	html := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "<html>bad gateway", http.StatusBadGateway)
	}))
	if _, err = client(t, html.URL).Workers(t.Context()); !errors.As(err, &p) || p.Code != v1.CodeUnknownOutcome || !strings.Contains(p.Detail, "502") {
		t.Errorf("got %v", err)
	}
}

// TestReadFailover proves that a read is answered as long as one endpoint can: past one
// that refuses, one that is mute and one that answers 503.
func TestReadFailover(t *testing.T) {
	busy := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }))
	good := worker(t, apitest.NewFleet())
	for name, bad := range map[string]string{"refused": dead(t), "mute": mute(t), "busy": busy.URL} {
		if _, err := client(t, bad, good.URL).Host(t.Context(), "h-1"); err != nil {
			t.Errorf("%s first: %v", name, err)
		}
	}
	_, err := client(t, dead(t), busy.URL).Host(t.Context(), "h-1")
	var p *v1.Problem
	if !errors.As(err, &p) || p.Code != v1.CodeUnavailable || !strings.Contains(p.Detail, "refused") || !strings.Contains(p.Detail, "503") {
		t.Errorf("all bad: %v", err)
	}
}

// TestWriteFailover proves that a write finds a worker that answers before it is sent,
// and that a write whose outcome is unknown is never sent twice.
func TestWriteFailover(t *testing.T) {
	f := apitest.NewFleet()
	good := worker(t, f)
	for name, bad := range map[string]string{"refused": dead(t), "mute": mute(t)} {
		if _, err := client(t, bad, good.URL).Order(t.Context(), "h-1", v1.OrderRequest{Verb: "on"}); err != nil {
			t.Errorf("%s first: %v", name, err)
		}
	}
	if n := len(f.Noted()); n != 2 {
		t.Errorf("%d orders, want 2", n)
	}

	var posts atomic.Int64
	breaking := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			_, _ = w.Write([]byte(`{}`))
			return
		}
		posts.Add(1)
		panic(http.ErrAbortHandler)
	}))
	_, err := client(t, breaking.URL, good.URL).Order(t.Context(), "h-1", v1.OrderRequest{Verb: "on"})
	var p *v1.Problem
	if !errors.As(err, &p) || p.Status != http.StatusGatewayTimeout || p.Hint == "" {
		t.Errorf("got %v", err)
	}
	if posts.Load() != 1 || len(f.Noted()) != 2 {
		t.Errorf("sent %d times, then %d orders elsewhere", posts.Load(), len(f.Noted())-2)
	}
}

// TestCallerEnds proves that a call ends with its context and says so.
func TestCallerEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := client(t, mute(t)).Host(ctx, "h-1"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestDeadline proves that a mute worker costs no more than the client's timeout.
func TestDeadline(t *testing.T) {
	c, err := v1.NewClient(v1.Options{Endpoints: []string{mute(t)}, Timeout: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Host(t.Context(), "h-1")
	var p *v1.Problem
	if !errors.As(err, &p) || p.Code != v1.CodeUnavailable || !strings.Contains(p.Detail, "no answer within 50ms") {
		t.Errorf("got %v", err)
	}
}

// TestBadEndpoints proves that an address that is none is named before anything is asked.
func TestBadEndpoints(t *testing.T) {
	for _, e := range []string{"", "ftp://x", "http://", "http://a b", "http://u:p@x", "http://x?y=1"} {
		if _, err := v1.NewClient(v1.Options{Endpoints: []string{e}}); err == nil {
			t.Errorf("%q: no error", e)
		}
	}
	if _, err := v1.NewClient(v1.Options{}); err == nil {
		t.Error("none: no error")
	}
}
