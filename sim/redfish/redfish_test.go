// SPDX-License-Identifier: Apache-2.0

package redfish

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"github.com/holdfast-ha/holdfast/sim/bmc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	systemURI = "/redfish/v1/Systems/1"
	resetURI  = systemURI + resetPath
)

// rig is a service with a model chassis on a clock moved by hand.
type rig struct {
	*Server
	t       testing.TB
	chassis *bmc.ModelChassis
	now     time.Time
}

func newRig(t testing.TB, change ...func(*Config, *bmc.ChassisConfig)) *rig {
	t.Helper()
	r := &rig{t: t, now: time.Unix(1_000_000, 0)}
	cc := bmc.ChassisConfig{On: true, Now: func() time.Time { return r.now }}
	cfg := Config{
		Name: "bmc-1", Addr: "127.0.0.1:0", Now: cc.Now, Seed: 3,
		Users: []bmc.User{
			{Name: "alice", Password: "s3cret", Privilege: bmc.Administrator},
			{Name: "oscar", Password: "op", Privilege: bmc.Operator},
			{Name: "ursula", Password: "us", Privilege: bmc.UserLevel},
		},
	}
	for _, f := range change {
		f(&cfg, &cc)
	}
	r.chassis = bmc.NewChassis(cc)
	if len(cfg.Systems) == 0 {
		cfg.Systems = []System{{UUID: "u-1", Serial: "s-1", Chassis: r.chassis}}
	}
	r.Server = New(cfg)
	return r
}

func (r *rig) set(f Faults) {
	r.t.Helper()
	if err := r.SetFaults(f); err != nil {
		r.t.Fatal(err)
	}
}

// ask makes one request without a socket. who is "user:password", a token or nobody.
func (r *rig) ask(method, path, who, body string) (int, map[string]any, http.Header) {
	r.t.Helper()
	req := httptest.NewRequest(method, path, bytes.NewReader([]byte(body)))
	if user, password, ok := bytes.Cut([]byte(who), []byte(":")); ok {
		req.SetBasicAuth(string(user), string(password))
	} else if who != "" {
		req.Header.Set("X-Auth-Token", who)
	}
	w := httptest.NewRecorder()
	r.serve(w, req)
	out := map[string]any{}
	if w.Body.Len() > 0 {
		if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
			r.t.Fatalf("%s %s: %v: %s", method, path, err, w.Body)
		}
	}
	return w.Code, out, w.Header()
}

func (r *rig) want(status int, method, path, who, body string) map[string]any {
	r.t.Helper()
	got, out, _ := r.ask(method, path, who, body)
	if got != status {
		r.t.Errorf("%s %s %s: status %d, want %d: %v", method, path, body, got, status, out)
	}
	return out
}

func (r *rig) state() any {
	r.t.Helper()
	return r.want(200, "GET", systemURI, "alice:s3cret", "")["PowerState"]
}

// DSP0266: the root is open, everything else needs a log-in, and every link leads somewhere.
func TestLinksLeadSomewhere(t *testing.T) {
	r := newRig(t, func(c *Config, _ *bmc.ChassisConfig) { c.Tasks, c.ActionInfo = true, true })
	r.want(202, "POST", resetURI, "alice:s3cret", `{"ResetType":"ForceOff"}`)
	r.want(201, "POST", sessionsURI, "", `{"UserName":"alice","Password":"s3cret"}`)
	seen := map[string]bool{}
	var walk func(uri string)
	var links func(v any)
	links = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, o := range v {
				if s, ok := o.(string); ok && (k == "@odata.id" || k == "@Redfish.ActionInfo" || k == "TaskMonitor") {
					walk(s)
				}
				links(o)
			}
		case []any:
			for _, o := range v {
				links(o)
			}
		}
	}
	walk = func(uri string) {
		if !seen[uri] {
			seen[uri] = true
			links(r.want(200, "GET", uri, "alice:s3cret", ""))
		}
	}
	walk("/redfish/v1/")
	if len(seen) < 14 {
		t.Errorf("only %d resources: %v", len(seen), seen)
	}
	for uri := range seen {
		if uri != "/redfish/v1/" {
			r.want(401, "GET", uri, "", "")
		}
	}
	r.want(404, "GET", "/redfish/v1/Nothing", "alice:s3cret", "")
	r.want(405, "DELETE", systemURI, "alice:s3cret", "")
}

// power.md §5: what a reset does, and that every command is in the truth log with its
// outcome and status.
func TestReset(t *testing.T) {
	for _, tc := range []struct {
		name, who, body string
		off             bool
		faults          Faults
		status          int
		verb            bmc.Verb
		outcome         bmc.Outcome
	}{
		{"off", "oscar:op", `{"ResetType":"ForceOff"}`, false, Faults{}, 204, bmc.VerbOff, bmc.Executed},
		{"off when off", "oscar:op", `{"ResetType":"ForceOff"}`, true, Faults{}, 204, bmc.VerbOff, bmc.Executed},
		{"off when off, refused", "oscar:op", `{"ResetType":"ForceOff"}`, true, Faults{RejectSameState: true}, 409, bmc.VerbOff, bmc.Refused},
		{"on", "oscar:op", `{"ResetType":"On"}`, true, Faults{}, 204, bmc.VerbOn, bmc.Executed},
		{"reset", "oscar:op", `{"ResetType":"ForceRestart"}`, false, Faults{}, 204, bmc.VerbReset, bmc.Executed},
		{"reset when off", "oscar:op", `{"ResetType":"ForceRestart"}`, true, Faults{}, 409, bmc.VerbReset, bmc.Refused},
		{"cycle", "oscar:op", `{"ResetType":"PowerCycle"}`, false, Faults{}, 204, bmc.VerbCycle, bmc.Executed},
		{"soft", "oscar:op", `{"ResetType":"GracefulShutdown"}`, false, Faults{}, 204, bmc.VerbSoft, bmc.Executed},
		{"diagnostic", "oscar:op", `{"ResetType":"Nmi"}`, false, Faults{}, 204, bmc.VerbDiag, bmc.Executed},
		{"lying", "oscar:op", `{"ResetType":"ForceOff"}`, false, Faults{IgnoreCommands: true}, 204, bmc.VerbOff, bmc.Ignored},
		{"unknown type", "oscar:op", `{"ResetType":"Explode"}`, false, Faults{}, 400, bmc.VerbInvalid, bmc.Refused},
		{"no JSON", "oscar:op", `{`, false, Faults{}, 400, bmc.VerbInvalid, bmc.Refused},
		{"may only read", "ursula:us", `{"ResetType":"ForceOff"}`, false, Faults{}, 403, bmc.VerbOff, bmc.Refused},
		{"busy", "oscar:op", `{"ResetType":"ForceOff"}`, false, Faults{Busy: 1}, 503, bmc.VerbOff, bmc.Refused},
		{"too many", "oscar:op", `{"ResetType":"ForceOff"}`, false, Faults{TooMany: 1}, 429, bmc.VerbOff, bmc.Refused},
		{"in use", "oscar:op", `{"ResetType":"ForceOff"}`, false, Faults{InUse: 1}, 409, bmc.VerbOff, bmc.Refused},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, func(_ *Config, c *bmc.ChassisConfig) { c.On = !tc.off })
			r.set(tc.faults)
			r.want(tc.status, "POST", resetURI, tc.who, tc.body)
			user, _, _ := bytes.Cut([]byte(tc.who), []byte(":"))
			want := []bmc.Entry{{At: r.now, BMC: "bmc-1", User: string(user), Verb: tc.verb, Before: !tc.off, After: r.chassis.Power(), Outcome: tc.outcome, Status: tc.status}}
			if diff := cmp.Diff(want, r.Truth(), cmpopts.IgnoreFields(bmc.Entry{}, "Remote", "Privilege")); diff != "" {
				t.Errorf("truth (-want +got):\n%s", diff)
			}
		})
	}
	r := newRig(t)
	r.want(401, "POST", resetURI, "alice:wrong", `{"ResetType":"ForceOff"}`)
	if len(r.Truth()) != 0 || !r.chassis.Power() {
		t.Error("who is not logged in reaches nothing")
	}
}

// power.md §1 (6): while the chassis is on its way the state is in between, and a task runs.
func TestTransitionsAndTasks(t *testing.T) {
	r := newRig(t, func(c *Config, ch *bmc.ChassisConfig) {
		c.Tasks, ch.OffLatency, ch.OnLatency = true, 4*time.Second, 4*time.Second
	})
	for _, step := range []struct{ reset, moving, then string }{{"ForceOff", "PoweringOff", "Off"}, {"On", "PoweringOn", "On"}} {
		_, body, h := r.ask("POST", resetURI, "oscar:op", `{"ResetType":"`+step.reset+`"}`)
		if got := r.state(); got != step.moving || body["TaskState"] != "Running" {
			t.Errorf("after %s: %v, task %v", step.reset, got, body["TaskState"])
		}
		r.want(202, "GET", h.Get("Location"), "oscar:op", "")
		r.now = r.now.Add(5 * time.Second)
		if got := r.state(); got != step.then {
			t.Errorf("five seconds after %s: %v", step.reset, got)
		}
		if got := r.want(200, "GET", h.Get("Location"), "oscar:op", "")["TaskState"]; got != "Completed" {
			t.Errorf("task is %v", got)
		}
	}
	// Overtaken through another face, the transition ends by itself.
	r.want(202, "POST", resetURI, "oscar:op", `{"ResetType":"ForceOff"}`)
	r.chassis.Force(true)
	r.now = r.now.Add(transitionFor + time.Second)
	if got := r.state(); got != "On" {
		t.Errorf("after another face overtook: %v", got)
	}
	r.set(Faults{TaskFails: true})
	if body := r.want(202, "POST", resetURI, "oscar:op", `{"ResetType":"ForceOff"}`); body["TaskState"] != "Exception" {
		t.Errorf("a failing task is %v", body["TaskState"])
	}
}

// power.md §6.1: what is said is the fault's, what is logged and true is not.
func TestReadings(t *testing.T) {
	r := newRig(t)
	for _, tc := range []struct {
		f    Faults
		want []any
	}{
		{Faults{}, []any{"On"}},
		{Faults{OffReadings: 2}, []any{"Off", "Off", "On"}},
		{Faults{SayState: "Paused"}, []any{"Paused"}},
		{Faults{SayState: "null"}, []any{nil}},
		{Faults{NoPowerState: true}, []any{nil}},
	} {
		r.set(tc.f)
		for _, want := range tc.want {
			if got := r.state(); got != want {
				t.Errorf("%+v: %v, want %v", tc.f, got, want)
			}
		}
	}
	if r.Reads() != 7 || len(r.Truth()) != 0 {
		t.Errorf("%d reads, truth %v", r.Reads(), r.Truth())
	}
	r.set(Faults{OtherUUID: true})
	if out := r.want(200, "GET", systemURI, "alice:s3cret", ""); out["UUID"] == "u-1" {
		t.Error("another UUID is shown")
	}
	r.set(Faults{BusyReads: 1})
	r.want(503, "GET", systemURI, "alice:s3cret", "")
	r.want(200, "GET", systemURI, "alice:s3cret", "")
	if err := r.SetFaults(Faults{SayState: "Maybe"}); err == nil {
		t.Error("a state nobody knows is refused")
	}
	if err := r.SetFaults(Faults{LoseAnswers: 101}); err == nil {
		t.Error("more than all is refused")
	}
}

// power.md §7: sessions have slots, a time-out and an owner; failed log-ins lock out.
func TestSessions(t *testing.T) {
	r := newRig(t, func(c *Config, _ *bmc.ChassisConfig) { c.Slots = 2 })
	login := func(user, password string) (int, string, string) {
		status, _, h := r.ask("POST", sessionsURI, "", `{"UserName":"`+user+`","Password":"`+password+`"}`)
		return status, h.Get("X-Auth-Token"), h.Get("Location")
	}
	_, token, uri := login("oscar", "op")
	r.want(200, "GET", systemURI, token, "")
	if _, other, _ := login("ursula", "us"); other == token {
		t.Error("tokens differ")
	}
	if status, _, _ := login("alice", "s3cret"); status != 503 || r.Sessions() != 2 {
		t.Errorf("status %d, %d sessions", status, r.Sessions())
	}
	r.want(403, "DELETE", uri, "ursula:us", "")
	r.want(204, "DELETE", uri, token, "")
	r.want(401, "GET", systemURI, token, "")
	if status, _, _ := login("alice", "s3cret"); status != 201 {
		t.Errorf("a freed slot is given: %d", status)
	}
	r.now = r.now.Add(2 * time.Minute)
	if r.Sessions() != 0 {
		t.Error("silent sessions end")
	}
	r.set(Faults{LockoutAfter: 2})
	for range 2 {
		login("alice", "wrong")
	}
	if status, _, _ := login("alice", "s3cret"); status != 401 {
		t.Errorf("locked out: %d", status)
	}
	r.now = r.now.Add(6 * time.Minute)
	if status, _, _ := login("alice", "s3cret"); status != 201 {
		t.Errorf("lock-out ends: %d", status)
	}
}

// What another face does to the chassis is seen here; commands are told in order.
func TestSharedChassis(t *testing.T) {
	var log []bmc.Verb
	r := newRig(t, func(c *Config, _ *bmc.ChassisConfig) { c.OnCommand = func(e bmc.Entry) { log = append(log, e.Verb) } })
	r.want(204, "POST", resetURI, "oscar:op", `{"ResetType":"ForceOff"}`)
	r.chassis.SetPower(true) // as the IPMI face does
	if got := r.state(); got != "On" || len(log) != 1 || log[0] != bmc.VerbOff {
		t.Errorf("%v, log %v", got, log)
	}
}

// power.md §5: certificate, tokens and random faults follow from the seed.
func TestDeterministic(t *testing.T) {
	trace := func(seed uint64) (out []any) {
		r := newRig(t, func(c *Config, _ *bmc.ChassisConfig) { c.Seed = seed })
		if err := r.Listen(); err != nil {
			t.Fatal(err)
		}
		defer r.ln.Close()
		_, _, h := r.ask("POST", sessionsURI, "", `{"UserName":"alice","Password":"s3cret"}`)
		out = append(out, r.Fingerprint(), h.Get("X-Auth-Token"))
		for range 20 {
			out = append(out, r.chance(50))
		}
		return out
	}
	if diff := cmp.Diff(trace(5), trace(5)); diff != "" {
		t.Errorf("one seed, two traces:\n%s", diff)
	}
	if cmp.Equal(trace(5), trace(6)) {
		t.Error("two seeds, one trace")
	}
}

// Faults of the wire over a real connection, and an end that waits for all of it.
func TestOverTLS(t *testing.T) {
	r := newRig(t, func(c *Config, _ *bmc.ChassisConfig) { c.Now = time.Now })
	if err := r.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(r.CA())
	client := &http.Client{
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer client.CloseIdleConnections()
	get := func(d time.Duration) (int, int64, error) {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, "GET", "https://"+r.Addr().String()+systemURI, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("alice", "s3cret")
		resp, err := client.Do(req)
		if err != nil {
			return 0, 0, err
		}
		defer resp.Body.Close()
		n, err := io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, n, err
	}
	for _, tc := range []struct {
		name   string
		f      Faults
		wait   time.Duration
		status int
		fails  bool
		least  int64
	}{
		{"healthy", Faults{}, 5 * time.Second, 200, false, 100},
		{"huge", Faults{HugeBody: 1 << 20}, 5 * time.Second, 200, false, 1 << 20},
		{"redirect", Faults{Redirect: "https://192.0.2.1"}, 5 * time.Second, 307, false, 0},
		{"answer lost", Faults{LoseAnswers: 100}, 5 * time.Second, 0, true, 0},
		{"request lost", Faults{LoseRequests: 100}, 5 * time.Second, 0, true, 0},
		{"mute", Faults{Mute: true}, 100 * time.Millisecond, 0, true, 0},
		{"trickle", Faults{Trickle: 10 * time.Millisecond}, 100 * time.Millisecond, 200, true, 1},
		{"delay", Faults{Delay: time.Minute}, 100 * time.Millisecond, 0, true, 0},
		{"healthy again", Faults{}, 5 * time.Second, 200, false, 100},
	} {
		r.set(tc.f)
		status, n, err := get(tc.wait)
		if status != tc.status || (err != nil) != tc.fails || n < tc.least {
			t.Errorf("%s: status %d, %d bytes, %v", tc.name, status, n, err)
		}
	}
	r.set(Faults{OtherCertificate: true})
	client.CloseIdleConnections()
	var unknown x509.UnknownAuthorityError
	if _, _, err := get(5 * time.Second); !errors.As(err, &unknown) {
		t.Errorf("another certificate: %v", err)
	}
	r.set(Faults{Delay: time.Minute}) // an answer is held back when the end comes
	pending := make(chan error, 1)
	go func() { _, _, err := get(10 * time.Second); pending <- err }()
	before := r.Requests()
	for tick := time.NewTicker(time.Millisecond); r.Requests() == before; {
		<-tick.C
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("run: %v", err)
	}
	if err := <-pending; err == nil {
		t.Error("an answer after the end")
	}
}

// Settings that cannot be are refused by name.
func TestConfig(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"addr": func(c *Config) { c.Addr = "here" }, "slots": func(c *Config) { c.Slots = 300 },
		"reset types": func(c *Config) { c.ResetTypes = []string{"Explode"} },
		"id":          func(c *Config) { c.Systems = []System{{ID: "a/b"}} },
		"twice":       func(c *Config) { c.Systems = []System{{ID: "a"}, {ID: "a"}} },
		"name":        func(c *Config) { c.Users = []bmc.User{{Name: "a:b"}} },
	} {
		r := newRig(t, func(c *Config, _ *bmc.ChassisConfig) { change(c) })
		if err := r.Listen(); err == nil || !bytes.Contains([]byte(err.Error()), []byte(name)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzHandle: no request panics the service, and only rightful ones reach the chassis.
func FuzzHandle(f *testing.F) {
	f.Add("POST", resetURI, "oscar:op", []byte(`{"ResetType":"ForceOff"}`))
	f.Add("PATCH", systemURI, "oscar:op", []byte(`{"IndicatorLED":"Lit"}`))
	f.Add("POST", sessionsURI, "", []byte(`{"UserName":"alice","Password":"s3cret"}`))
	f.Add("DELETE", sessionsURI+"/1", "alice:s3cret", []byte(nil))
	f.Add("GET", tasksURI+"/1", "ursula:us", []byte(nil))
	f.Fuzz(func(t *testing.T, method, path, who string, body []byte) {
		req, err := http.NewRequest(method, "https://127.0.0.1/", nil)
		if err != nil {
			return
		}
		req.URL.Path = path
		if user, password, ok := bytes.Cut([]byte(who), []byte(":")); ok {
			req.SetBasicAuth(string(user), string(password))
		}
		r := newRig(t)
		a := r.handle(req, body, Faults{})
		if a.status < 200 || a.status > 599 {
			t.Errorf("status %d", a.status)
		}
		if n := r.chassis.Counts(); n != (bmc.Counts{}) && who != "oscar:op" && who != "alice:s3cret" {
			t.Errorf("%q reached the chassis: %+v", who, n)
		}
	})
}
