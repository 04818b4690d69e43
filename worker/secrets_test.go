// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/sim/bmc"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	wpower "github.com/holdfast-ha/holdfast/worker/power"
	"github.com/holdfast-ha/holdfast/worker/power/fenceagent"
	"github.com/holdfast-ha/holdfast/worker/power/ipmi"
	"github.com/holdfast-ha/holdfast/worker/proc"
	"github.com/holdfast-ha/holdfast/worker/sealed"
)

// vault is a rig with a worker that seals, its log, and clients of its API.
type vault struct {
	*rig
	ring string
	log  safeBuffer
}

// safeBuffer is written by a worker and read by the test.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newVault(t *testing.T) *vault {
	v := &vault{rig: newRig(t), ring: filepath.Join(t.TempDir(), "ring")}
	v.key(t, "k1", true)
	return v
}

func (v *vault) key(t *testing.T, id string, first bool) {
	t.Helper()
	if _, err := sealed.AddKey(v.ring, id, first, time.Now()); err != nil {
		t.Fatal(err)
	}
}

// sealing runs a worker with a ring file and gives a client of its API.
func (v *vault) sealing(t *testing.T, id, ring string, change func(*Worker)) (*Worker, *v1.Client) {
	t.Helper()
	w, err := New(Options{
		ID: id, Etcd: v.etcd.Endpoints(), ListenAPI: "127.0.0.1:0", ListenAgents: "127.0.0.1:0", LeaseTTL: 3 * time.Second, InsecureLoopback: true,
		KeyRing: ring, Logger: slog.New(slog.NewTextHandler(&v.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(w)
	}
	background(t, w.Run)
	var at string
	eventually(t, "worker "+id+" is on record", func() bool {
		m, _ := read[v1.Worker](t, v.rig, leases.WorkerKey(id))
		at = m.API
		return at != ""
	})
	tr := &http.Transport{DisableKeepAlives: true}
	c, err := v1.NewClient(v1.Options{Endpoints: []string{at}, Actor: "ann", Transport: tr})
	if err != nil {
		t.Fatal(err)
	}
	return w, c
}

// device declares a host whose BMC has one account op with this password.
func (v *vault) device(t *testing.T, host, password, secret string) *bmc.BMC {
	t.Helper()
	b := bmc.New(bmc.Config{Name: host, Addr: "127.0.0.1:0", GUID: guidOf(host), Users: account(password)})
	if err := b.Listen(); err != nil {
		t.Fatal(err)
	}
	background(t, b.Run)
	v.put(t, leases.HostSpecKey(host), v1.HostSpec{V: 1, ID: host, Partition: cluster, Provider: "kvm",
		Power: []v1.Device{{Name: "bmc", Driver: "ipmi", Address: b.Addr().String(), User: "op", Secret: secret}}})
	return b
}

func account(password string) []bmc.User {
	return []bmc.User{{Name: "op", Password: password, Privilege: bmc.Operator}}
}

// dev is the status of a host's device once ok says so.
func dev(t *testing.T, c *v1.Client, host, what string, ok func(v1.DeviceStatus) bool) {
	t.Helper()
	eventually(t, host+" "+what, func() bool {
		h, err := c.Host(t.Context(), host)
		return err == nil && len(h.Status.Devices) > 0 && ok(h.Status.Devices[0])
	})
}

func refusedAs(err error, code string, words ...string) bool {
	var p *v1.Problem
	return errors.As(err, &p) && p.Code == code && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(p.Detail, w) })
}

func (v *vault) put1(t *testing.T, c *v1.Client, host, password string, rev int64) (v1.SecretStatus, error) {
	t.Helper()
	return c.PutSecret(t.Context(), host, "bmc", v1.SecretRequest{Password: v1.Password(password)}, rev)
}

// TestRotation: what the device does not accept replaces nothing; what it accepts is
// used at the next reading without a restart; a wrong one on record is UNKNOWN with a
// reason, never OFF (power.md §9.3, tests 25 and 27).
func TestRotation(t *testing.T) {
	v := newVault(t)
	b := v.device(t, "h1", "first", wpower.SealedRef)
	_, c := v.sealing(t, "w1", v.ring, nil)
	dev(t, c, "h1", "unset: BadConfig, not OFF", func(d v1.DeviceStatus) bool {
		if d.State == "OFF" {
			t.Error("OFF without credentials")
		}
		return strings.Contains(d.TestErr, "holdfast power secret set h1 bmc") && !d.TestOK && d.State == "UNKNOWN"
	})
	if s, err := c.Secret(t.Context(), "h1", "bmc"); err != nil || s.Set || s.Ref != "sealed" {
		t.Errorf("unset: %+v, %v", s, err)
	}
	if _, err := v.put1(t, c, "h1", "not-it", 0); !refusedAs(err, v1.CodeRefused, "AuthFailed", "nothing was replaced") {
		t.Fatalf("a wrong password: %v", err)
	}
	if _, rev := read[secretRecord](t, v.rig, leases.SecretKey("h1", "bmc")); rev != 0 {
		t.Fatal("a password that the device refused is on record")
	}
	s, err := v.put1(t, c, "h1", "first", 0)
	if err != nil || !s.Set || s.Key != "k1" || !s.Newest || !s.Tested || !strings.HasPrefix(s.By, "ann@") || s.Readable != "yes" || len(s.Warnings) > 0 {
		t.Fatalf("set: %+v, %v", s, err)
	}
	dev(t, c, "h1", "it logs in", func(d v1.DeviceStatus) bool { return d.State == "ON" && d.TestOK })

	if _, err := v.put1(t, c, "h1", "second", s.Revision); !refusedAs(err, v1.CodeRefused) {
		t.Fatalf("rotated before the device was: %v", err)
	}
	if now, err := c.Secret(t.Context(), "h1", "bmc"); err != nil || now.Revision != s.Revision {
		t.Errorf("the old one was touched: %+v, %v", now, err)
	}
	if err := b.SetUsers(account("third")); err != nil {
		t.Fatal(err)
	}
	if _, err := v.put1(t, c, "h1", "third", s.Revision+1); !refusedAs(err, v1.CodePrecondition) {
		t.Errorf("another revision: %v", err)
	}
	s2, err := v.put1(t, c, "h1", "third", s.Revision)
	if err != nil || s2.Revision <= s.Revision {
		t.Fatalf("rotated: %+v, %v", s2, err)
	}
	reads := b.Reads()
	dev(t, c, "h1", "the next reading uses it", func(d v1.DeviceStatus) bool { return b.Reads() > reads && d.State == "ON" && d.Error == "" })

	for _, bad := range []string{"", strings.Repeat("x", maxPassword+1), "line\nbreak", "zero\x00byte", strings.Repeat("x", 21)} {
		if _, err := c.PutSecret(t.Context(), "h1", "bmc", v1.SecretRequest{Password: v1.Password(bad), NoTest: true}, -1); !refusedAs(err, v1.CodeBadRequest) {
			t.Errorf("%d bytes: %v", len(bad), err)
		}
	}
	if err := c.DeleteSecret(t.Context(), "h1", "bmc", s2.Revision); err != nil {
		t.Fatal(err)
	}
	if err := c.DeleteSecret(t.Context(), "h1", "bmc", -1); !refusedAs(err, v1.CodeNotFound) {
		t.Errorf("deleted twice: %v", err)
	}
	events := strings.Join(v.events(t, 0), "\n")
	for _, want := range []string{"secret.refused h1", "secret.set h1 secret of h1/bmc was set after a good test", "was replaced after", "secret.deleted h1"} {
		if !strings.Contains(events, want) {
			t.Errorf("no event %q:\n%s", want, events)
		}
	}
}

// TestReferencesContinue: a device that refers to its environment goes on with that; a
// sealed secret is stored beside it, and the answer says that it is not used yet.
func TestReferencesContinue(t *testing.T) {
	t.Setenv("HOLDFAST_TEST_BMC", "pw")
	v := newVault(t)
	v.device(t, "h1", "pw", "env:HOLDFAST_TEST_BMC")
	_, c := v.sealing(t, "w1", v.ring, nil)
	dev(t, c, "h1", "it logs in", func(d v1.DeviceStatus) bool { return d.State == "ON" && d.TestOK })
	s, err := v.put1(t, c, "h1", "pw", -1)
	if err != nil || len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0], "secret: sealed") {
		t.Fatalf("%+v, %v", s, err)
	}
	h, err := c.Host(t.Context(), "h1")
	if err != nil {
		t.Fatal(err)
	}
	h.Spec.Power[0].Secret = wpower.SealedRef
	if _, err := c.PutHost(t.Context(), h.Spec, h.Revision, false); err != nil {
		t.Fatal(err)
	}
	os.Unsetenv("HOLDFAST_TEST_BMC")
	eventually(t, "a good test with the sealed one", func() bool {
		r, err := c.Order(t.Context(), "h1", v1.OrderRequest{Verb: "test"})
		return err == nil && !r.Failed
	})
	// A device that is not declared any more takes its secret with it, and no other one's.
	h, err = c.Host(t.Context(), "h1")
	if err != nil {
		t.Fatal(err)
	}
	two := h.Spec
	two.Power = append(slices.Clone(h.Spec.Power), v1.Device{Name: "web", Driver: "ipmi", Address: h.Spec.Power[0].Address, User: "op", Secret: wpower.SealedRef})
	if h, err = c.PutHost(t.Context(), two, h.Revision, false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a secret of the second device", func() bool {
		_, err := c.PutSecret(t.Context(), "h1", "web", v1.SecretRequest{Password: v1.Password("pw")}, -1)
		return err == nil
	})
	one := h.Spec
	one.Power = slices.Clone(h.Spec.Power[:1])
	if h, err = c.PutHost(t.Context(), one, h.Revision, false); err != nil {
		t.Fatal(err)
	}
	if _, rev := read[secretRecord](t, v.rig, leases.SecretKey("h1", "web")); rev != 0 {
		t.Error("the secret of a device that was removed is kept")
	}
	if _, rev := read[secretRecord](t, v.rig, leases.SecretKey("h1", "bmc")); rev == 0 {
		t.Error("the secret of a device that stays is gone")
	}
	// A device may be declared before it has a secret, by a worker that could not open it.
	h.Spec.ID = "h2"
	if _, err := c.PutHost(t.Context(), h.Spec, 0, false); err != nil {
		t.Errorf("declared without a secret: %v", err)
	}
	eventually(t, "forgotten", func() bool { return c.DeleteHost(t.Context(), "h1", -1) == nil })
	if _, rev := read[secretRecord](t, v.rig, leases.SecretKey("h1", "bmc")); rev != 0 {
		t.Error("the secret of a host that was forgotten is kept")
	}
}

// TestBoundToItsPlace: a sealed record that somebody copied to another host's key does
// not open there: that device is unreadable, and the worker says so.
func TestBoundToItsPlace(t *testing.T) {
	v := newVault(t)
	v.device(t, "h1", "pw", wpower.SealedRef)
	v.device(t, "h2", "pw", wpower.SealedRef)
	w, c := v.sealing(t, "w1", v.ring, nil)
	dev(t, c, "h1", "owned", func(d v1.DeviceStatus) bool { return d.TestErr != "" })
	if _, err := v.put1(t, c, "h1", "pw", -1); err != nil {
		t.Fatal(err)
	}
	rec, _ := read[secretRecord](t, v.rig, leases.SecretKey("h1", "bmc"))
	v.put(t, leases.SecretKey("h2", "bmc"), rec)
	dev(t, c, "h2", "not opened", func(d v1.DeviceStatus) bool {
		return strings.Contains(d.TestErr, "BadConfig") && strings.Contains(d.TestErr, secretsUnreadable) && d.State == "UNKNOWN"
	})
	eventually(t, "a warning", func() bool { return strings.Contains(warning(w), "h2/bmc") })
	if s, err := c.Secret(t.Context(), "h2", "bmc"); err != nil || !strings.Contains(s.Readable, "not sealed for this place") {
		t.Errorf("%+v, %v", s, err)
	}
}

func warning(w *Worker) string {
	for _, x := range w.health.list() {
		if x.Code == secretsUnreadable {
			return x.Severity + ": " + x.Text
		}
	}
	return ""
}

// TestRingIsReadAgain: a worker without the key has a named warning and errors of kind
// BadConfig; once the ring file is there it goes on, without a restart; a damaged ring
// file changes nothing.
func TestRingIsReadAgain(t *testing.T) {
	v := newVault(t)
	v.device(t, "h1", "pw", wpower.SealedRef)
	r := sealed.NewFile(v.ring)
	r.Refresh()
	text, err := r.Ring().Seal(leases.SecretKey("h1", "bmc"), []byte("\x00pw"))
	if err != nil {
		t.Fatal(err)
	}
	v.put(t, leases.SecretKey("h1", "bmc"), secretRecord{V: 1, Sealed: text})
	later := filepath.Join(t.TempDir(), "later")
	w, c := v.sealing(t, "w1", later, nil)
	eventually(t, "a warning", func() bool { return strings.HasPrefix(warning(w), "critical: ") && strings.Contains(warning(w), later) })
	dev(t, c, "h1", "BadConfig, not OFF", func(d v1.DeviceStatus) bool {
		return strings.Contains(d.TestErr, "BadConfig") && strings.Contains(d.TestErr, secretsUnreadable) && d.State == "UNKNOWN"
	})
	if _, err := v.put1(t, c, "h1", "pw", -1); !refusedAs(err, v1.CodeRefused, "no key to seal with") {
		t.Errorf("sealed without a key: %v", err)
	}
	copyFile(t, v.ring, later)
	dev(t, c, "h1", "it logs in", func(d v1.DeviceStatus) bool { return d.State == "ON" && d.TestOK })
	eventually(t, "the warning is gone", func() bool { return warning(w) == "" })
	if err := os.WriteFile(later, []byte("k1 damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a milder warning", func() bool {
		return strings.HasPrefix(warning(w), "warning: ") && strings.Contains(warning(w), "line 1")
	})
	eventually(t, "a good test with a damaged file", func() bool {
		r, err := c.Order(t.Context(), "h1", v1.OrderRequest{Verb: "test"})
		return err == nil && !r.Failed
	})
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to+".new", b, 0o600)
	}
	if err == nil {
		err = os.Rename(to+".new", to)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestReseal: every secret is sealed anew under the newest key, in steps, only when all
// workers have that key, and stays the secret that it was.
func TestReseal(t *testing.T) {
	v := newVault(t)
	other := filepath.Join(t.TempDir(), "other")
	copyFile(t, v.ring, other)
	for i := range 3 {
		v.device(t, fmt.Sprintf("h%d", i), "pw", wpower.SealedRef)
	}
	_, c := v.sealing(t, "w1", v.ring, nil)
	_, c2 := v.sealing(t, "w2", other, nil)
	for i := range 3 {
		h := fmt.Sprintf("h%d", i)
		eventually(t, h+" has a secret", func() bool {
			_, err := c.PutSecret(t.Context(), h, "bmc", v1.SecretRequest{Password: v1.Password("pw"), NoTest: true}, -1)
			return err == nil
		})
	}
	v.key(t, "k2", true)
	if _, err := c.Reseal(t.Context(), v1.ResealRequest{}, false); !refusedAs(err, v1.CodeRefused, "worker w2 does not have key k2") {
		t.Fatalf("resealed under a key that a worker does not have: %v", err)
	}
	copyFile(t, v.ring, other)
	eventually(t, "allowed once both have it", func() bool {
		r, err := c.Reseal(t.Context(), v1.ResealRequest{}, true)
		return err == nil && r.Left == 3 && len(r.Done) == 3 && r.Key == "k2"
	})
	if rec, _ := read[secretRecord](t, v.rig, leases.SecretKey("h0", "bmc")); !strings.Contains(rec.Sealed, ":k1:") {
		t.Error("a dry run has written")
	}
	for _, left := range []int{1, 0, 0} {
		r, err := c.Reseal(t.Context(), v1.ResealRequest{Limit: 2}, false)
		if err != nil || r.Left != left || len(r.Failed) > 0 || r.Total != 3 {
			t.Fatalf("%+v, %v, want %d left", r, err, left)
		}
	}
	eventually(t, "all are under k2", func() bool {
		all, err := c.Secrets(t.Context())
		return err == nil && len(all) == 3 && !slices.ContainsFunc(all, func(s v1.SecretStatus) bool { return s.Key != "k2" || !s.Newest || s.Readable != "yes" || s.By == "" })
	})
	// Any worker takes a new secret: the owner tests it, and the body goes through whole.
	for i := range 3 {
		for name, c := range map[string]*v1.Client{"w1": c, "w2": c2} {
			h := fmt.Sprintf("h%d", i)
			if s, err := v.put1(t, c, h, "pw", -1); err != nil || !s.Tested || s.Key != "k2" {
				t.Errorf("%s through %s: %+v, %v", h, name, s, err)
			}
			if _, err := v.put1(t, c, h, "not-it", -1); !refusedAs(err, v1.CodeRefused, "nothing was replaced") {
				t.Errorf("%s through %s: %v", h, name, err)
			}
		}
	}
	eventually(t, "a good test with a secret that was resealed", func() bool {
		r, err := c.Order(t.Context(), "h1", v1.OrderRequest{Verb: "test"})
		return err == nil && !r.Failed
	})
}

// TestCanary: a password that went in by every path comes out of none: logs, events,
// etcd, answers, metrics, arguments and environments of children, errors of the device.
func TestCanary(t *testing.T) {
	const good, bad, agentPW = "Kanarie-good-8f2c", "Kanarie-bad-77d1", "Kanarie-agent-11e0"
	v := newVault(t)
	b := v.device(t, "h1", good, wpower.SealedRef)
	dir := t.TempDir()
	meta, err := os.ReadFile("power/fenceagent/testdata/metadata.xml")
	if err != nil {
		t.Fatal(err)
	}
	// An agent that shouts all it knows.
	agent := `#!/bin/sh
d="$(dirname "$0")"
[ "$1" = -o ] && exec cat "$d/metadata.xml"
cat /proc/$$/cmdline /proc/$$/environ >>"$d/seen"
in=$(cat); p=$(echo "$in" | sed -n 's/^password=//p'); echo "Unable to connect with password $p" >&2
[ "$p" = ` + agentPW + ` ] || exit 1
case $in in *action=list*) echo 1,left ;; *) echo "Status: ON" ;; esac
`
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "metadata.xml"), meta, 0o644), os.WriteFile(filepath.Join(dir, "fence_fake"), []byte(agent), 0o755), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	v.put(t, leases.HostSpecKey("h2"), v1.HostSpec{V: 1, ID: "h2", Partition: cluster, Provider: "kvm",
		Power: []v1.Device{{Name: "pdu", Driver: "fenceagent", Address: "192.0.2.7", User: "op", Secret: "sealed", Params: map[string]string{"agent": "fence_fake", "plug": "1"}}}})
	w, c := v.sealing(t, "w1", v.ring, func(w *Worker) {
		if w.drivers, err = wpower.NewRegistry(ipmi.New(w.hostile), fenceagent.New(proc.NewRunner(2), fenceagent.Options{Dir: dir})); err != nil {
			t.Fatal(err)
		}
	})
	dev(t, c, "h1", "owned", func(d v1.DeviceStatus) bool { return d.TestErr != "" })
	dev(t, c, "h2", "owned", func(d v1.DeviceStatus) bool { return d.TestErr != "" })

	var told strings.Builder // all that operators were told
	put := func(host, device, password string, noTest bool) {
		s, err := c.PutSecret(t.Context(), host, device, v1.SecretRequest{Password: v1.Password(password), NoTest: noTest}, -1)
		fmt.Fprintf(&told, "%+v %v\n", s, err)
		var p *v1.Problem
		if errors.As(err, &p) {
			fmt.Fprintf(&told, "%+v\n", *p)
		}
	}
	put("h1", "bmc", bad, false)
	put("h1", "bmc", good, false)
	put("h2", "pdu", bad, false)
	put("h2", "pdu", agentPW, false)
	put("h1", "bmc", good+strings.Repeat("x", 21), true)
	put("h1", "bmc", good+"\n", true)
	dev(t, c, "h1", "it logs in", func(d v1.DeviceStatus) bool { return d.TestOK })
	dev(t, c, "h2", "it logs in", func(d v1.DeviceStatus) bool { return d.State == "ON" })
	if err := b.SetUsers(account("elsewhere")); err != nil {
		t.Fatal(err)
	}
	for _, o := range []v1.OrderRequest{{Verb: "test"}, {Verb: "identify"}} {
		for _, h := range []string{"h1", "h2"} {
			r, err := c.Order(t.Context(), h, o)
			fmt.Fprintf(&told, "%+v %v\n", r, err)
		}
	}
	put("h1", "bmc", bad, true) // a wrong one, stored: errors of each reading
	if r, err := c.Order(t.Context(), "h1", v1.OrderRequest{Verb: "test"}); err != nil || !r.Failed {
		t.Errorf("a wrong one passes: %+v, %v", r, err)
	}

	m, _ := w.view.worker("w1")
	ask := func(method, path, body string) {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+m.API+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&told, "%s %s: %d %s\n", method, path, resp.StatusCode, answer)
	}
	for _, body := range []string{`{"passwort":"` + good + `"}`, `{"password":"` + good + `"`, `{"password":["` + good + `"]}`, good, `{"` + good + `":1}`} {
		ask("PUT", "/v1/hosts/h1/devices/bmc/secret", body)
	}
	for _, path := range []string{"/v1/hosts", "/v1/hosts/h1", "/v1/hosts/h1/explain", "/v1/hosts/h1/devices/bmc/secret", "/v1/secrets", "/v1/events", "/v1/workers", "/v1/health", "/v1/settings", "/metrics", "/v1/incidents"} {
		ask("GET", path, "")
	}
	var etcd strings.Builder
	kvs, _, err := v.client.List(t.Context(), leases.Root)
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range kvs {
		fmt.Fprintf(&etcd, "%s %s\n", kv.Key, kv.Value)
	}
	own, err := os.ReadFile("/proc/self/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	seen, err := os.ReadFile(filepath.Join(dir, "seen"))
	if err != nil || len(seen) == 0 {
		t.Fatalf("no child was seen: %v", err)
	}
	for where, text := range map[string]string{"logs": v.log.String(), "answers": told.String(), "etcd": etcd.String(), "own arguments": string(own), "children": string(seen)} {
		for _, pw := range []string{good, bad, agentPW} {
			for _, s := range []string{pw, base64.StdEncoding.EncodeToString([]byte(pw))[:16], hex.EncodeToString([]byte(pw)), "Kanarie"} {
				if i := strings.Index(text, s); i >= 0 {
					t.Errorf("%s: …%s…", where, text[max(0, i-200):min(len(text), i+100)])
				}
			}
		}
	}
	if !strings.Contains(etcd.String(), "holdfast:enc:aesgcm:v1:k1:") {
		t.Error("nothing is sealed in etcd")
	}
}

// TestSecretIsOrderedWithItsDeclaration: what was tested on one address is never stored
// for a declaration that changed meanwhile.
func TestSecretIsOrderedWithItsDeclaration(t *testing.T) {
	v := newVault(t)
	v.device(t, "h1", "pw", wpower.SealedRef)
	w, c := v.sealing(t, "w1", v.ring, nil)
	dev(t, c, "h1", "owned", func(d v1.DeviceStatus) bool { return d.TestErr != "" })
	stale, _ := w.view.spec("h1")
	v.put(t, leases.HostSpecKey("h1"), stale.Val)
	key := leases.SecretKey("h1", "bmc")
	_, err := (*backend)(w).write(t.Context(), "secret", leases.Unowned().At(key, 0).At(leases.HostSpecKey("h1"), stale.Rev), (*backend)(w).audit("secret.set", "ann", "x", ""), leases.Put(key, secretRecord{V: 1}))
	if !refusedAs(err, v1.CodeConflict) {
		t.Errorf("stored over another declaration: %v", err)
	}
}
