// SPDX-License-Identifier: Apache-2.0

package hook_test

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	"github.com/holdfast-ha/holdfast/worker/hook"
	"github.com/holdfast-ha/holdfast/worker/proc"
)

const key = "0123456789abcdef-signing"

// hmacByHand is RFC 2104 written out, so that nothing of what signs is used to verify.
func hmacByHand(key, msg []byte) []byte {
	if len(key) > 64 {
		k := sha256.Sum256(key)
		key = k[:]
	}
	inner, outer := make([]byte, 64), make([]byte, 64)
	copy(inner, key)
	copy(outer, key)
	for i := range 64 {
		inner[i] ^= 0x36
		outer[i] ^= 0x5c
	}
	in := sha256.Sum256(append(inner, msg...))
	out := sha256.Sum256(append(outer, in[:]...))
	return out[:]
}

// verify is what docs/hooks.md tells receivers to do.
func verify(r *http.Request, body, key []byte, now time.Time) error {
	sent, err := strconv.ParseInt(r.Header.Get("webhook-timestamp"), 10, 64)
	if err != nil || now.Sub(time.Unix(sent, 0)).Abs() > 5*time.Minute {
		return errors.New("the timestamp is not one of now")
	}
	want := "v1," + base64.StdEncoding.EncodeToString(hmacByHand(key, []byte(r.Header.Get("webhook-id")+"."+r.Header.Get("webhook-timestamp")+"."+string(body))))
	for sig := range strings.FieldsSeq(r.Header.Get("webhook-signature")) {
		if subtle.ConstantTimeCompare([]byte(sig), []byte(want)) == 1 {
			return nil
		}
	}
	return errors.New("no signature fits")
}

func send(t *testing.T, url, ca string, d hook.Delivery) error {
	t.Helper()
	s, err := hook.NewWebhook(url, []byte(key), ca, "1.2", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	return s.Send(ctx, d)
}

func event(t *testing.T) hook.Delivery {
	t.Helper()
	conf, err := hook.Parse(web)
	if err != nil {
		t.Fatal(err)
	}
	d, err := conf.TestEvent("k", "e1", "ann", time.Now()).Encode()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// A receiver that knows the key alone can tell who sent an event, that it is whole, and when.
func TestSignature(t *testing.T) {
	// The example of the Standard Webhooks libraries: a foreign implementation's answer.
	vector, err := hook.ParseKey([]byte("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))
	if err != nil {
		t.Fatal(err)
	}
	if got := hook.Sign(vector, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`)); got != "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" {
		t.Errorf("signature %s", got)
	}
	var verified, forged error
	var e map[string]any
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		verified = errors.Join(err, verify(r, body, []byte(key), time.Now()), json.Unmarshal(body, &e))
		forged = verify(r, append(body, ' '), []byte(key), time.Now())
		if forged != nil {
			forged = verify(r, body, []byte("another key of 24 bytes!"), time.Now())
		}
		if ct := r.Header.Get("Content-Type"); !strings.HasPrefix(ct, "application/cloudevents+json") || r.Header.Get("User-Agent") != "holdfast/1.2" {
			t.Errorf("Content-Type %q, User-Agent %q", ct, r.Header.Get("User-Agent"))
		}
	}))
	defer s.Close()
	if err := send(t, s.URL, "", event(t)); err != nil {
		t.Fatal(err)
	}
	if verified != nil || forged == nil {
		t.Errorf("verification: %v; of a forged one: %v", verified, forged)
	}
	for _, a := range []string{"specversion", "id", "source", "type"} { // CloudEvents 1.0: required
		if s, _ := e[a].(string); s == "" {
			t.Errorf("attribute %s is missing: %v", a, e)
		}
	}
	if _, err := time.Parse(time.RFC3339, e["time"].(string)); err != nil || e["specversion"] != "1.0" {
		t.Errorf("%v %v", e, err)
	}
}

// Answers that are no success, redirects elsewhere and strangers get no event twice over,
// and no error repeats the URL.
func TestWebhookRefuses(t *testing.T) {
	reached := 0
	foreign := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached++ }))
	defer foreign.Close()
	mux := http.NewServeMux()
	s := httptest.NewServer(mux)
	defer s.Close()
	for code, name := range map[int]string{301: "/moved", 302: "/found", 307: "/temporary"} {
		mux.Handle(name+"/abroad/token-s3cret", http.RedirectHandler(foreign.URL+"/token-s3cret", code))
		mux.Handle(name+"/home/token-s3cret", http.RedirectHandler("/taken/token-s3cret", code))
	}
	mux.Handle("/loop/token-s3cret", http.RedirectHandler("/loop/token-s3cret", http.StatusPermanentRedirect))
	taken := 0
	mux.HandleFunc("/taken/", func(_ http.ResponseWriter, r *http.Request) {
		if b, err := io.ReadAll(r.Body); err == nil && verify(r, b, []byte(key), time.Now()) == nil {
			taken++
		}
	})
	mux.HandleFunc("/busy/", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Retry-After", "120"); w.WriteHeader(503) })
	mux.HandleFunc("/gone/", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(410) })
	for path, want := range map[string]string{
		"/moved/abroad": "a redirect to " + foreign.URL, "/found/abroad": "a redirect to " + foreign.URL, "/temporary/abroad": "a redirect to " + foreign.URL,
		"/moved/home": "drops the event", "/found/home": "drops the event", "/temporary/home": "", "/loop": "more than 3 redirects",
		"/busy": "503 Service Unavailable", "/gone": "wants no more", "/nobody": "404",
	} {
		err := send(t, s.URL+path+"/token-s3cret", "", event(t))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the error repeats the URL: %v", path, err)
		}
		var r *hook.RefusedError
		if path == "/busy" && (!errors.As(err, &r) || r.After != 2*time.Minute) || path == "/gone" && (!errors.As(err, &r) || !r.Gone) {
			t.Errorf("%s: %+v", path, r)
		}
	}
	if reached != 0 || taken != 1 {
		t.Errorf("a foreign host was asked %d times, and %d events were taken after a redirect, want 1", reached, taken)
	}
	s.Close()
	if err := send(t, s.URL+"/token-s3cret", "", event(t)); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("nobody there: %v", err)
	}
}

// Who the receiver is, is verified: against the system's authorities or those declared.
func TestWebhookVerifiesTheReceiver(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	if err := send(t, s.URL, "", event(t)); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a stranger: %v", err)
	}
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	if err := send(t, s.URL, ca, event(t)); err != nil {
		t.Errorf("with its authority: %v", err)
	}
}

// A program gets the event on its standard input; what is not its owner's alone is not run.
func TestExec(t *testing.T) {
	dir := t.TempDir()
	script := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	children, d := proc.NewRunner(1), event(t)
	run := func(path string, args ...string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		return hook.NewExec(children, path, args).Send(ctx, d)
	}
	if err := run(script("ok", `cat >"$1"`, 0o700), filepath.Join(dir, "got")); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "got")); err != nil || string(got) != string(d.Body) {
		t.Errorf("on standard input: %q, %v", got, err)
	}
	for _, c := range []struct{ path, want string }{
		{script("fails", "echo 'no room' >&2; exit 3", 0o700), `exit status 3: "no room"`},
		{script("open", "exit 0", 0o722), "mode 0722"},
		{dir, "not a plain file"},
		{filepath.Join(dir, "nothing"), "no such file"},
	} {
		if err := run(c.path); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.path, err, c.want)
		}
	}
}

// What cannot be meant is refused with field, value and what is allowed; a URL or key that
// is refused is not repeated.
func TestBadConfig(t *testing.T) {
	exec := func(change func(*v1.HookSpec)) v1.HookSpec {
		s := v1.HookSpec{Kind: v1.HookExec, Target: "/usr/lib/holdfast/hook"}
		change(&s)
		return s
	}
	for _, c := range []struct {
		spec  v1.HookSpec
		field string
		says  string
	}{
		{v1.HookSpec{Kind: "mail"}, "kind", `"mail", allowed are webhook and exec`},
		{exec(func(s *v1.HookSpec) { s.Target = "hook" }), "target", `"hook", allowed`},
		{exec(func(s *v1.HookSpec) { s.Target = "/a/../b" }), "target", "clean absolute path"},
		{exec(func(s *v1.HookSpec) { s.CA = "x" }), "ca", "kind webhook only"},
		{exec(func(s *v1.HookSpec) { s.Timeout = "2m" }), "timeout", `"2m", allowed are durations of 1s to 1m0s`},
		{exec(func(s *v1.HookSpec) { s.RetryMax = "soon" }), "retryMax", `"soon"`},
		{exec(func(s *v1.HookSpec) { s.DisableAfter = "1s" }), "disableAfter", "1m0s to 168h0m0s"},
		{exec(func(s *v1.HookSpec) { s.DisableFailures = -1 }), "disableFailures", "-1, allowed are 1 to 10000"},
		{exec(func(s *v1.HookSpec) { s.Types = []string{"Host State"} }), "types", `"Host State"`},
		{exec(func(s *v1.HookSpec) { s.Severities = []string{"critical"} }), "severities", "info, warning, page"},
		{exec(func(s *v1.HookSpec) { s.Scopes = []string{"rack/7"} }), "scopes", `"rack/7"`},
		{exec(func(s *v1.HookSpec) { s.Source = "a b" }), "source", `"a b"`},
		{exec(func(s *v1.HookSpec) { s.Args = []string{"a\x00b"} }), "args", "zero byte"},
		{v1.HookSpec{Kind: v1.HookWeb, Args: []string{"x"}}, "args", "kind exec only"},
		{v1.HookSpec{Kind: v1.HookWeb, CA: "-----BEGIN"}, "ca", "PEM"},
	} {
		_, err := hook.Parse(c.spec)
		var p *v1.Problem
		if !errors.As(err, &p) || p.Field != c.field || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v, want field %s and %q", c.spec, err, c.field, c.says)
		}
	}
	for _, u := range []string{"http://r.example/s3cret", "https://ann:s3cret@r.example/", "ftp://r.example/s3cret", "https:///s3cret", "s3cret", "https://r.example/#s3cret", "https://r.example/%zz-s3cret"} {
		if _, err := hook.ParseURL(u); err == nil || strings.Contains(err.Error(), "s3cret") || !strings.Contains(err.Error(), "allowed") {
			t.Errorf("%s: %v", u, err)
		}
	}
	for u, origin := range map[string]string{"https://r.example:8443/s3cret?x=1": "https://r.example:8443", "http://127.0.0.1:80/x": "http://127.0.0.1:80", "http://[::1]/": "http://[::1]"} {
		if got, err := hook.ParseURL(u); err != nil || got != origin {
			t.Errorf("%s: %q %v", u, got, err)
		}
	}
	for _, k := range []string{"", "s3cret", "whsec_*s3cret*", "whsec_czNjcmV0", strings.Repeat("s3cret", 50)} {
		if _, err := hook.ParseKey([]byte(k)); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("key %q: %v", k, err)
		}
	}
}

func TestFilter(t *testing.T) {
	x := v1.Event{Type: "host.state", Severity: "page", Host: "h1", Partition: "z1/p1/c1"}
	for _, c := range []struct {
		spec v1.HookSpec
		want bool
	}{
		{v1.HookSpec{}, true},
		{v1.HookSpec{Types: []string{"host.state"}}, true}, {v1.HookSpec{Types: []string{"host.*"}}, true}, {v1.HookSpec{Types: []string{"host"}}, false},
		{v1.HookSpec{Types: []string{"power.*", "host.state"}}, true}, {v1.HookSpec{Types: []string{"hos.*"}}, false},
		{v1.HookSpec{Severities: []string{"info"}}, false}, {v1.HookSpec{Severities: []string{"info", "page"}}, true},
		{v1.HookSpec{Scopes: []string{"global"}}, true}, {v1.HookSpec{Scopes: []string{"zone/z1"}}, true}, {v1.HookSpec{Scopes: []string{"zone/z"}}, false},
		{v1.HookSpec{Scopes: []string{"pod/z1/p1"}}, true}, {v1.HookSpec{Scopes: []string{"cluster/z1/p1/c1"}}, true}, {v1.HookSpec{Scopes: []string{"cluster/z1/p1/c2"}}, false},
		{v1.HookSpec{Scopes: []string{"host/h1"}}, true}, {v1.HookSpec{Scopes: []string{"host/h2"}}, false},
		{v1.HookSpec{Types: []string{"host.*"}, Severities: []string{"page"}, Scopes: []string{"zone/z2"}}, false},
	} {
		c.spec.Kind, c.spec.Target = v1.HookExec, "/bin/true"
		conf, err := hook.Parse(c.spec)
		if err != nil {
			t.Fatal(err)
		}
		if got := conf.Wants(x); got != c.want {
			t.Errorf("%+v: %t", c.spec, got)
		}
	}
}
