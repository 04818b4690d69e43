// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// linked waits until a host is linked, or is not.
func (l *trusted) linked(id string, want bool, limit time.Duration) {
	l.t.Helper()
	until(l.t, limit, func() string {
		if s := l.hostOf(id).Status; (s.Linked == v1.LinkedYes) != want {
			return fmt.Sprintf("%s is %s, linked %q", id, s.State, s.Linked)
		}
		return ""
	})
}

// joinToken gives a host a token, in the file that its agent reads.
func (l *trusted) joinToken(host, file string) {
	l.t.Helper()
	next := file + ".new"
	if err := os.WriteFile(next, []byte(l.must("join-token", "create", host, "--reason", "test")), 0o600); err != nil {
		l.t.Fatal(err)
	}
	if err := os.Rename(next, file); err != nil {
		l.t.Fatal(err)
	}
}

func (l *trusted) certificates(host string) []v1.Certificate {
	l.t.Helper()
	var list v1.List[v1.Certificate]
	if err := json.Unmarshal([]byte(l.must("cert", "list", "--host", host, "-o", "json")), &list); err != nil {
		l.t.Fatal(err)
	}
	return list.Items
}

// streams are those of agents at each worker, in use or standing by; unknown where one does not
// answer.
func (l *trusted) streams() (out map[string]int, unknown string) {
	l.t.Helper()
	var list v1.List[v1.Worker]
	if err := json.Unmarshal([]byte(l.must("get", "workers", "-o", "json")), &list); err != nil {
		l.t.Fatal(err)
	}
	out = map[string]int{}
	for _, w := range list.Items {
		if w.Links == nil || w.Standby == nil {
			return nil, w.ID + " does not answer"
		}
		out[w.ID] = *w.Links + *w.Standby
	}
	return out, ""
}

// shows says what becomes of somebody who shows a host's certificate at an agents' door: nil if
// the door speaks to him.
func (l *trusted) shows(door string, mine tls.Certificate) error {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), time.Minute)
	defer cancel()
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{mine}, NextProtos: []string{"h2"}}}
	conn, err := d.DialContext(ctx, "tcp", door)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	if _, err = conn.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		l.t.Fatalf("%s neither speaks nor refuses", door)
	}
	return err
}

// revoked revokes a certificate by its serial: every worker ends what it has of that host's
// streams, and refuses new ones. How long that takes is told; five seconds are asked for.
func (l *trusted) revoked(serial, dir string) {
	l.t.Helper()
	mine, err := tls.LoadX509KeyPair(filepath.Join(dir, "host.crt"), filepath.Join(dir, "host.key"))
	if err != nil {
		l.t.Fatal(err)
	}
	for _, door := range l.doors {
		if err := l.shows(door, mine); err != nil {
			l.t.Fatalf("%s refuses a good certificate: %v", door, err)
		}
	}
	until(l.t, time.Minute, func() string { // each agent is linked to one worker and stands by at the other
		if n, why := l.streams(); why != "" || n["w1"] != 2 || n["w2"] != 2 {
			return fmt.Sprintf("streams %v %s", n, why)
		}
		return ""
	})
	began := time.Now()
	l.must("cert", "revoke", serial, "--reason", "stolen")
	until(l.t, time.Minute, func() string {
		for _, door := range l.doors {
			if l.shows(door, mine) == nil {
				return door + " still admits the revoked certificate"
			}
		}
		return ""
	})
	refused := time.Since(began)
	until(l.t, time.Minute, func() string {
		if n, why := l.streams(); why != "" || n["w1"] != 1 || n["w2"] != 1 {
			return fmt.Sprintf("streams %v %s", n, why)
		}
		return ""
	})
	l.t.Logf("revoked by serial: refused by every worker after %v, no stream left after %v (5 s are asked for)", refused.Round(10*time.Millisecond), time.Since(began).Round(10*time.Millisecond))
}

// A host joins with a token, once; its streams are cut on every worker and its certificate is
// refused soon after that was revoked, and it comes back with another token. Beside it a host with
// certificate files goes on. Tokens of operators do what their role says (agents.md
// "Trust").
func TestEnrolment(t *testing.T) {
	t.Parallel()
	l := startTrusted(t)
	if err := os.WriteFile(l.path("h-2.host.yaml"), []byte("kind: host\nid: h-2\npartition: z1/p1/c1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.must("apply", "-f", l.path("h-2.host.yaml"))
	l.must("cert", "authority", "create")
	file := l.path("token")
	l.joinToken("h-2", file)
	l.start("holdfast-agent", "h-2", fmt.Sprintf("host: h-2\nhypervisor: none\nworkers: ['%s']\nstateDir: %s\njoinToken: %s\n", strings.Join(l.doors, "', '"), l.path("agent-2"), file))
	l.linked("h-2", true, startTime)

	certs := l.certificates("h-2")
	if len(certs) != 1 || certs[0].State != "good" || time.Until(certs[0].NotAfter) > 24*time.Hour {
		t.Fatalf("certificates of h-2: %+v", certs)
	}
	if keys, err := filepath.Glob(l.path("agent-2/trust/c[0-9]*/host.key")); err != nil || len(keys) != 1 {
		t.Errorf("keys %v, %v", keys, err)
	} else if st, err := os.Stat(keys[0]); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("key %v, %v", st, err)
	}
	l.revoked(certs[0].Serial, l.path("agent-2/trust/current"))
	l.linked("h-2", false, time.Minute)
	if certs := l.certificates("h-2"); len(certs) != 1 || certs[0].State != "revoked" || certs[0].Reason != "stolen" {
		t.Errorf("certificates of h-2: %+v", certs)
	}
	l.linked("h-1", true, time.Minute)
	l.joinToken("h-2", file) // the agent looks once a minute
	l.linked("h-2", true, 2*time.Minute)

	token := strings.TrimSpace(l.must("auth", "token", "create", "ci", "--role", "viewer"))
	asToken := func(args ...string) (string, bool) {
		cmd := exec.Command(holdfast, append([]string{"--endpoint", "https://" + l.api["w1"], "--cacert", l.path("pki/ca.crt")}, args...)...)
		cmd.Env = append(environ(l.home), "HOLDFAST_TOKEN="+token)
		text, err := cmd.CombinedOutput()
		return string(text), err == nil
	}
	if text, ok := asToken("auth", "whoami"); !ok || !strings.Contains(text, "token/ci") || !strings.Contains(text, "viewer") {
		t.Errorf("whoami with a token: %s", text)
	}
	if text, ok := asToken("get", "hosts"); !ok {
		t.Errorf("a viewer may not look: %s", text)
	}
	if text, ok := asToken("host", "maintenance", "on", "h-1", "--reason", "x"); ok || !strings.Contains(text, "needs the role operator") {
		t.Errorf("a viewer acted: %s", text)
	}
	audit := l.must("auth", "audit", "-o", "json")
	for _, what := range []string{"authority.created", "join-token.created", "host.joined", "certificate.revoked", "token.created", "operator/ann@127.0.0.1", `"stolen"`} {
		if !strings.Contains(audit, what) {
			t.Errorf("the audit log has no %s", what)
		}
	}
	if strings.Contains(audit, "holdfast:enc:") || strings.Contains(audit, strings.Split(token, ".")[2]) {
		t.Error("a secret is in the audit log")
	}
}
