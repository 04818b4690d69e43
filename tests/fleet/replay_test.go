// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"encoding/json"
	"flag"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/replay"
	"github.com/holdfast-ha/holdfast/sim/fleet"
)

var replayAll = flag.Bool("replay-all", false, "replay the incidents of every script, not of each sixth")

// recorded keeps the steps of every incident of a fleet as its owners do
// (worker/steps.go), all of them.
type recorded struct {
	t         *testing.T
	recorders map[string]*replay.Recorder
	steps     map[string][]json.RawMessage // by incident
	hosts     map[string]string
}

func (r *recorded) committed(ev ha.Event, p ha.Policy, before, after ha.Record, effects []ha.Effect) {
	for _, i := range ha.Touched(before, after, effects) {
		if r.recorders[i] == nil {
			r.recorders[i] = new(replay.Recorder)
		}
		raw, err := r.recorders[i].Record(i, len(r.steps[i]), before, ev, p, after, effects)
		if err != nil {
			r.t.Error(err)
			return
		}
		r.steps[i], r.hosts[i] = append(r.steps[i], raw), before.Host
	}
}

// TestEachIncidentReplays: whatever a script makes of a host, the recorded inputs of its
// incidents give the same verdicts again, through JSON and back.
func TestEachIncidentReplays(t *testing.T) {
	type figures struct{ incidents, steps, bytes, most int }
	all := make(chan figures, len(scripts(t)))
	t.Run("scripts", func(t *testing.T) {
		for k, s := range stories(t) {
			if k%6 != 0 && !*replayAll {
				continue
			}
			t.Run(filepath.Base(s.name), func(t *testing.T) {
				t.Parallel()
				script, err := fleet.ParseScript(s.script)
				if err != nil {
					t.Fatal(err)
				}
				r := &recorded{t: t, recorders: map[string]*replay.Recorder{}, steps: map[string][]json.RawMessage{}, hosts: map[string]string{}}
				f := fleet.New(s.top)
				f.Committed = r.committed
				if err := f.Play(script); err != nil {
					t.Fatal(err)
				}
				n := figures{incidents: len(r.steps)}
				for id, raw := range r.steps {
					size := 0
					for _, b := range raw {
						size += len(b)
					}
					n.steps, n.bytes, n.most = n.steps+len(raw), n.bytes+size, max(n.most, size)
					same(t, r.hosts[id], id, raw)
				}
				all <- n
			})
		}
	})
	close(all)
	var sum figures
	for n := range all {
		sum.incidents, sum.steps, sum.bytes, sum.most = sum.incidents+n.incidents, sum.steps+n.steps, sum.bytes+n.bytes, max(sum.most, n.most)
	}
	if sum.incidents < 30 {
		t.Errorf("%d incidents were recorded", sum.incidents)
	}
	t.Logf("%d incidents, %d steps, %d bytes each, %d of an incident, %d of the largest", sum.incidents, sum.steps, sum.bytes/max(1, sum.steps), sum.bytes/max(1, sum.incidents), sum.most)
}

func same(t *testing.T, host, id string, raw []json.RawMessage) {
	t.Helper()
	b, err := json.Marshal(map[string]any{"format": replay.Format, "version": replay.FileVersion, "incident": map[string]string{"id": id, "host": host}, "steps": raw})
	if err != nil {
		t.Fatal(err)
	}
	f, err := replay.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	rep := replay.Run(f)
	if rep.Missing > 0 || rep.Differ > 0 || rep.Judged != len(raw) {
		t.Errorf("%s: %d steps, %d judged, %d differ, %d missing", id, len(raw), rep.Judged, rep.Differ, rep.Missing)
	}
	for _, l := range rep.Lines {
		if len(l.Differs)+len(l.Also) > 0 || l.Missing != "" || l.WhyNow != "" {
			t.Errorf("%s line %d (%s): %s%s; also %s; why %q, now %q", id, l.N, l.Event, l.Missing, strings.Join(l.Differs, "; "), strings.Join(l.Also, ", "), l.Why, l.WhyNow)
			return
		}
	}
}
