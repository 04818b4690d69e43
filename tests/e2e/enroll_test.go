// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
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

// A host joins with a token, once; its link is cut within five seconds of its
// certificate's revocation, and it comes back with another token. Beside it a host with
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
	if keys, err := filepath.Glob(l.path("agent-2/trust/c*/host.key")); err != nil || len(keys) != 1 {
		t.Errorf("keys %v, %v", keys, err)
	} else if st, err := os.Stat(keys[0]); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("key %v, %v", st, err)
	}
	l.must("cert", "revoke", "--host", "h-2", "--reason", "stolen")
	l.linked("h-2", false, 5*time.Second)
	if certs := l.certificates("h-2"); len(certs) != 1 || certs[0].State != "revoked" || certs[0].Reason != "stolen" {
		t.Errorf("certificates of h-2: %+v", certs)
	}
	l.linked("h-1", true, time.Second)
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
