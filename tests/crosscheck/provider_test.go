// SPDX-License-Identifier: Apache-2.0

package crosscheck

import (
	"context"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
	"github.com/holdfast-ha/holdfast/worker/power/execdriver"
	"github.com/holdfast-ha/holdfast/worker/proc"
	"github.com/holdfast-ha/holdfast/worker/provider"
	"github.com/holdfast-ha/holdfast/worker/provider/execprovider"
	"github.com/holdfast-ha/holdfast/worker/provider/providertest"
)

// site is the service, its witness and its journal, as the example of docs/providers.md
// finds them.
type site struct {
	*httptest.Server
	truth   chan providertest.Truth // holds the present one
	done    chan struct{}
	journal string
}

func newSite(t *testing.T) *site {
	s := &site{truth: make(chan providertest.Truth, 1), done: make(chan struct{}), journal: filepath.Join(t.TempDir(), "journal")}
	s.truth <- providertest.Healthy
	if err := os.WriteFile(s.journal, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Server = httptest.NewUnstartedServer(s)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Start()
	ctx, cancel := context.WithCancel(context.Background())
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		s.write(ctx, t)
	}()
	t.Cleanup(func() { cancel(); <-wrote; close(s.done); s.Close() })
	return s
}

func (s *site) is() providertest.Truth {
	truth := <-s.truth
	s.truth <- truth
	return truth
}

// write lets the journal grow while the service works.
func (s *site) write(ctx context.Context, t *testing.T) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	text := []byte("begin\n")
	for {
		truth := <-s.truth // held while it is written: who sets another one sees the last of it
		switch truth {
		case providertest.Healthy, providertest.Sick:
			text = append(text, '.')
		}
		err := os.WriteFile(s.journal+".tmp", text, 0o600)
		if have, missing := os.ReadFile(s.journal); err == nil && (missing != nil || len(have) != len(text)) {
			err = os.Rename(s.journal+".tmp", s.journal)
		}
		if s.truth <- truth; err != nil {
			t.Error(err)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	witness := r.URL.Path == "/witness"
	switch truth := s.is(); {
	case truth == providertest.Mute:
		select {
		case <-s.done:
		case <-r.Context().Done():
		}
	case truth == providertest.Healthy && !witness:
		_ = json.NewEncoder(w).Encode(map[string]any{"boot": "b-1", "jobs": []string{"j-1"}})
	case (truth == providertest.Sick || truth == providertest.Torn) && !witness:
		http.Error(w, "recovering", http.StatusServiceUnavailable)
	case truth == providertest.Garbled && witness:
		http.Error(w, "who?", http.StatusTeapot)
	case !witness, truth == providertest.Blind:
		panic(http.ErrAbortHandler) // nothing answers
	}
}

// TestDocumentedProvider: the example of docs/providers.md passes the contract of providers
// and, as a power device, that of drivers. As only root's programs are run, it needs root;
// elsewhere it proves the refusal.
func TestDocumentedProvider(t *testing.T) {
	install(t) // the fence agents bring Python
	program := example(t, "providers.md")
	p := execprovider.New()
	facts := provider.Facts{Host: "db-1", Partition: "z1/databases", Program: program, PowerTested: true}
	if os.Getuid() != 0 {
		if err := p.Check(facts); err == nil || !strings.Contains(err.Error(), "does not belong to root") {
			t.Errorf("a program that does not belong to root: %v", err)
		}
		return
	}
	t.Run("provider", func(t *testing.T) {
		providertest.Run(t, func(t *testing.T) providertest.World {
			s := newSite(t)
			f := facts
			f.Labels = map[string]string{"url": s.URL + "/status", "witness": s.URL + "/witness", "journal": s.journal}
			return providertest.World{Provider: p, Facts: f, Set: func(truth providertest.Truth) { <-s.truth; s.truth <- truth }}
		})
	})
	t.Run("device", func(t *testing.T) {
		b := newBoard(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		c, err := execdriver.NewProvider(proc.NewRunner(4)).Open(ctx, power.Target{
			Host: "db-1", Device: "script", Address: strings.TrimPrefix(b.URL, "https://"), Secret: secretOf(t, "admin", password), Limits: power.Limits{Answer: 30 * time.Second, Command: 30 * time.Second},
			Params: map[string]string{"program": program, "secret": "required", "param.relay": "4", "param.ca": b.ca(t)}, Pinned: corepower.Identity{Serial: "B-77/relay/4"},
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range []struct {
			verb corepower.Verb
			want corepower.State
		}{{corepower.HardOff, corepower.Off}, {corepower.HardOn, corepower.On}} {
			out, err := c.Do(ctx, power.Command{Verb: x.verb, ID: "c-1"})
			r, rerr := c.Status(ctx)
			if err != nil || rerr != nil || out != corepower.Accepted || r.State != x.want || !r.Authentic {
				t.Errorf("%s: %s %+v, %v, %v", x.verb, out, r, err, rerr)
			}
		}
		if err := c.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Run("gate", func(t *testing.T) {
		s := newSite(t)
		f := facts
		f.Labels = map[string]string{"url": s.URL + "/status", "witness": s.URL + "/witness", "journal": s.journal}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		for forbidden, want := range map[string]string{"j-1": "", "j-9": "g-2"} {
			f.Gate, f.MustNotRun = "g-2", []string{forbidden}
			if got := p.Look(ctx, f); got.Health.Verdict != ha.Pass || got.Boot != "b-1" || got.Gate != want {
				t.Errorf("must not run %s: %+v, want gate %q", forbidden, got, want)
			}
		}
	})
}
