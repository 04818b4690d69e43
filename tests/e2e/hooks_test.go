// SPDX-License-Identifier: Apache-2.0

//go:build e2e_full

package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// sink is a webhook receiver outside the fleet.
type sink struct {
	mu   sync.Mutex
	away bool
	ids  []string
}

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var e struct{ ID, Type string }
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil || json.Unmarshal(body, &e) != nil || s.away {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	s.ids = append(s.ids, e.ID)
}

func (s *sink) set(away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = away
}

func (s *sink) got() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := map[string]int{}
	for _, id := range s.ids {
		n[id]++
	}
	return n
}

// TestWebhookOwnerKilled: the worker that delivers is killed with its parent while the
// receiver is away and again while it delivers. In the end the receiver has every event of
// the log since the hook was declared.
func TestWebhookOwnerKilled(t *testing.T) {
	t.Parallel()
	f := start(t, "--preset", "fast", "--hosts", "4", "--workers", "3")
	f.awaitAllAvailable(t, time.Minute)
	s := &sink{}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("0123456789abcdef-of-the-test"), 0o600); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(key)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	cmd := exec.Command(holdfast, "webhook", "add", "sink", server.URL+"/x", "--retry-max", "1s")
	cmd.Env, cmd.Stdin = environ(f.home), in
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("webhook add: %v\n%s", err, out)
	}
	f.must(t, "webhook", "test", "sink")
	tell := func() { // some events of operators
		for _, on := range []string{"on", "off"} {
			f.must(t, "host", "maintenance", on, f.hosts(t)[0].Spec.ID, "--reason", "test")
		}
	}
	for _, away := range []bool{true, false} {
		s.set(away)
		tell()
		owner := strings.TrimSpace(f.must(t, "webhook", "show", "sink", "-o", "jsonpath={.owner}"))
		f.must(t, "dev", "kill-worker", owner, "--parent")
		f.awaitOwned(t)
		tell()
		s.set(false)
		f.must(t, "dev", "start-worker", owner)
		f.awaitOwned(t)
	}
	until(t, 2*time.Minute, func() string {
		got, missing := s.got(), []string(nil)
		after := false
		for _, e := range f.events(t, "") {
			if after && got[e.ID] == 0 {
				missing = append(missing, e.Type)
			}
			after = after || e.Type == "hook.declared"
		}
		if len(missing) > 0 || !after {
			return "missing: " + strings.Join(missing, ", ")
		}
		return ""
	})
}
