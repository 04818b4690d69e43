// SPDX-License-Identifier: Apache-2.0

package redfish

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
)

// hostile serves what a test wants, in clear.
func hostile(t *testing.T, h http.HandlerFunc) (*Driver, power.Target) {
	t.Helper()
	s := httptest.NewServer(h)
	d := New(0)
	t.Cleanup(func() { d.Close(); s.Close() })
	return d, power.Target{
		Address: s.Listener.Addr().String(), Secret: secret(t, "operator", password),
		Params: map[string]string{"tls": "off", "system": "/redfish/v1/Systems/1"},
	}
}

const goodSystem = `{"UUID":"` + testUUID + `","PowerState":"On","Actions":{"#ComputerSystem.Reset":{"target":%q}}}`

// power.md §11 (26): a service that repeats our credentials does not bring them into
// errors, whichever form they have.
func TestEchoedSecrets(t *testing.T) {
	for _, auth := range []string{"basic", "session"} {
		d, target := hostile(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				w.Header().Set("X-Auth-Token", "token-of-the-session")
				w.Header().Set("Location", "/redfish/v1/SessionService/Sessions/1")
				w.WriteHeader(http.StatusCreated)
				return
			}
			said := r.Header.Get("Authorization") + r.Header.Get("X-Auth-Token") + " " + password
			w.Header().Set("Location", "/"+said)
			w.WriteHeader(map[bool]int{true: 500, false: 302}[r.Header.Get("If-Match") == ""])
			fmt.Fprintf(w, `{"error":{"message":%q}}`, said)
		})
		target.Params["auth"] = auth
		_, err := d.Open(t.Context(), target)
		if err == nil {
			t.Fatal("opened")
		}
		for e := err; e != nil; e = errors.Unwrap(e) {
			for _, secret := range []string{password, base64.StdEncoding.EncodeToString([]byte("operator:" + password)), "token-of-the-session"} {
				if strings.Contains(fmt.Sprintf("%v %+v %#v", e, e, e), secret) {
					t.Errorf("%s: %q is in the error %v", auth, secret, e)
				}
			}
		}
		if !strings.Contains(err.Error(), "[secret]") {
			t.Errorf("%s: the rest of the message is kept: %v", auth, err)
		}
	}
}

// Links in answers do not lead commands and credentials to other hosts.
func TestForeignLinks(t *testing.T) {
	for _, link := range []string{
		"https://192.0.2.1/reset", "//192.0.2.1/reset", "http://user:x@127.0.0.1/reset", "/redfish/../../reset", "reset", "http://127.0.0.1:1/reset", "\x00", "/" + strings.Repeat("x", maxPath),
	} {
		var posts atomic.Int32
		d, target := hostile(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet {
				posts.Add(1)
			}
			fmt.Fprintf(w, goodSystem, link)
		})
		c, err := d.Open(t.Context(), target)
		if err != nil {
			if power.KindOf(err) != corepower.ProtocolViolation {
				t.Errorf("%q: %v", link, err)
			}
			continue
		}
		out, err := c.Do(t.Context(), power.Command{Verb: corepower.HardOff})
		if out != corepower.Rejected || power.KindOf(err) != corepower.ProtocolViolation || posts.Load() != 0 {
			t.Errorf("%q: %s, %v, %d commands", link, out, err, posts.Load())
		}
		_ = c.Close(t.Context())
	}
}

// Services that close after each answer, or cannot do HTTP/1.1, are served as well.
func TestConnectionPerRequest(t *testing.T) {
	d, target := hostile(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		if r.Method == http.MethodPost {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		fmt.Fprintf(w, goodSystem, "/reset")
	})
	c, err := d.Open(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	for range 3 {
		if got, err := c.Status(t.Context()); err != nil || got.State != corepower.On {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	if out, err := c.Do(t.Context(), power.Command{Verb: corepower.HardOff}); err != nil || out != corepower.Accepted {
		t.Errorf("%s, %v", out, err)
	}
}

// Whatever says Off in a way two parsers could read differently is not OFF.
func TestParseSystem(t *testing.T) {
	for body, want := range map[string]corepower.State{
		`{"PowerState":"Off"}`:                            corepower.Off,
		`{"PowerState":"On"}`:                             corepower.On,
		`{"PowerState":"PoweringOff"}`:                    corepower.On,
		`{"PowerState":"off"}`:                            corepower.Unknown,
		`{"powerstate":"Off"}`:                            corepower.Unknown,
		`{"PowerState":"On","powerstate":"Off"}`:          corepower.On,
		`{"PowerState":"On","PowerState":"Off"}`:          corepower.Unknown,
		`{"PowerState":"On","PowerSt\u0061te":"Off"}`:     corepower.Unknown,
		`{"PowerState":["Off"]}`:                          corepower.Unknown,
		`{"PowerState":null}`:                             corepower.Unknown,
		`{"PowerState":"Off"} {"PowerState":"On"}`:        corepower.Unknown,
		`{"PowerState":"Off"`:                             corepower.Unknown,
		`[{"PowerState":"Off"}]`:                          corepower.Unknown,
		`{"Status":{"PowerState":"Off"}}`:                 corepower.Unknown,
		`{"PowerState":"Off","Actions":[]}`:               corepower.Unknown,
		`{"PowerState":"Off","UUID":7}`:                   corepower.Unknown,
		`{"PowerState":"Off ","UUID":"x"}`:                corepower.Unknown,
		``:                                                corepower.Unknown,
		`<html>Off</html>`:                                corepower.Unknown,
		strings.Repeat(`{"PowerState":`, 20000) + `"Off"`: corepower.Unknown,
	} {
		s, err := parseSystem([]byte(body))
		state := corepower.Unknown
		if err == nil {
			state, _, err = s.power()
		}
		if state != want || (err != nil) != (want == corepower.Unknown) {
			t.Errorf("%.60s: %v, %v; want %v", body, state, err, want)
		}
	}
}

// power.md §7: endless and broken answers end within bounds.
func TestReadAnswer(t *testing.T) {
	req := &http.Request{Method: http.MethodGet}
	for name, tc := range map[string]struct {
		answer string
		want   error
	}{
		"early answers for ever": {strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 100), errMalformed},
		"early, then real":       {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", nil},
		"not HTTP":               {"SSH-2.0-OpenSSH\r\n\r\n", errMalformed},
		"too long by its word":   {"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n{", errOversized},
		"too long in chunks":     {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n80000\r\n" + strings.Repeat("x", 0x80000) + "\r\n0\r\n\r\n", errOversized},
		"shorter than its word":  {"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}", io.ErrUnexpectedEOF},
		"two lengths":            {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", errMalformed},
	} {
		if _, err := read(bufio.NewReader(strings.NewReader(tc.answer)), req); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
}

// A header without end is cut off as well.
func TestEndlessHeader(t *testing.T) {
	d, target := hostile(t, func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, err = io.WriteString(c, "HTTP/1.1 200 OK\r\n")
		for err == nil {
			_, err = io.WriteString(c, "X-Padding: "+strings.Repeat("x", 4096)+"\r\n")
		}
	})
	_, err := d.Open(t.Context(), target)
	if power.KindOf(err) != corepower.ProtocolViolation {
		t.Errorf("%v", err)
	}
}

// leases.md §3.2: the kernel gives up delivering a command when its time is over.
func TestUndeliveredIsDropped(t *testing.T) {
	d, target := hostile(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, goodSystem, "/reset") })
	target.Limits.Packet = 1500 * time.Millisecond
	c, err := d.Open(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	raw, err := c.(*conn).link.tcp.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	got := 0
	if err := raw.Control(func(fd uintptr) { got, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT) }); err != nil || got != 1500 {
		t.Errorf("TCP_USER_TIMEOUT is %d, %v; want 1500", got, err)
	}
}

// Settings that cannot work are refused without traffic, by name.
func TestCheck(t *testing.T) {
	file := t.TempDir() + "/none.pem"
	for _, tc := range []struct {
		name   string
		change func(*power.Target)
		names  string
	}{
		{"address", func(t *power.Target) { t.Address = "https://bmc/" }, "address"},
		{"port", func(t *power.Target) { t.Address = "bmc:99999" }, "99999"},
		{"tls", func(t *power.Target) { t.Params["tls"] = "yes" }, "pin, ca, insecure, off"},
		{"fingerprint", func(t *power.Target) { t.Params["fingerprint"] = "abc" }, "64 hexadecimal digits"},
		{"pinned fingerprint", func(t *power.Target) { t.Pinned.Fingerprint = "abc" }, "pinned fingerprint"},
		{"fingerprint of nothing", func(t *power.Target) { t.Params["tls"], t.Params["fingerprint"] = "off", strings.Repeat("ab", 32) }, "tls=off"},
		{"ca file", func(t *power.Target) { t.Params["tls"], t.Params["ca_file"] = "ca", file }, "ca_file"},
		{"ca file without ca", func(t *power.Target) { t.Params["ca_file"] = file }, "needs tls=ca"},
		{"system", func(t *power.Target) { t.Params["system"] = "https://elsewhere/redfish/v1/Systems/1" }, "another host"},
		{"user", func(t *power.Target) { t.Secret = power.Secret{} }, "no secret"},
	} {
		target := power.Target{Address: "192.0.2.1", Params: map[string]string{}, Secret: secret(t, "operator", password)}
		if err := New(0).Check(target); err != nil {
			t.Fatal(err)
		}
		tc.change(&target)
		err := New(0).Check(target)
		if power.KindOf(err) != corepower.BadConfig || !strings.Contains(err.Error(), tc.names) {
			t.Errorf("%s: %v, want a BadConfig naming %q", tc.name, err, tc.names)
		}
	}
	if err := New(0).Check(power.Target{Address: "bmc", Secret: secret(t, "a:b", password)}); power.KindOf(err) != corepower.BadConfig {
		t.Errorf("colon in a user: %v", err)
	}
}
