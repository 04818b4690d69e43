// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-ha/holdfast/sim/world"
	"github.com/holdfast-ha/holdfast/tests/proc"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// Presets and how soon after a fault a host is to be proven dead with each (ha.md §4), on
// a BMC that answers.
var detections = []struct {
	preset string
	target time.Duration
}{
	{"fast", 13 * time.Second},
	{"default", 60 * time.Second},
}

const (
	deadline = 3 * time.Minute // for one host to be proven dead, or to be back, and for a fleet to be up
	apart    = 2               // so many may be down at once: more would be a storm
)

// stages of a detection are the events that end them.
var stages = []string{"ha.suspect", "ha.recovering", "ha.safe-to-restart"}

// detect measures how long it takes from a host's crash to the proof that it is dead:
// real workers, agents and guests as processes, BMCs over RMCP+ and UDP, as `holdfast dev`
// runs them.
// Hosts are broken one after the other, each in another cluster than the one before.
func (b *bench) detect() {
	for _, d := range detections {
		if d.preset == "default" && b.n.Dead == 1 {
			continue // the short form has no minute for it
		}
		b.detection(d.preset, d.target)
	}
}

func (b *bench) detection(preset string, target time.Duration) {
	b.t.Helper()
	f := b.devFleet(preset)
	defer f.end()
	for scope, limit := range map[string]string{"budget.cluster": "1000/1h", "budget.pod": "1000/1h", "budget.zone": "1000/1h"} {
		if _, err := f.api.PutSetting(b.t.Context(), "global", scope, v1.SettingRequest{Value: limit, Reason: "perf"}, false); err != nil {
			b.t.Fatalf("set %s: %v", scope, err)
		}
	}
	hosts := f.witnessed()
	var whole times
	parts := make([]times, len(stages))
	for i := range b.n.Dead {
		if i >= apart {
			f.back(hosts[f.victim(i-apart)])
		}
		began, ends := f.crash(hosts[f.victim(i)])
		whole = append(whole, ends[len(ends)-1].Sub(began))
		for k, at := range ends {
			parts[k] = append(parts[k], at.Sub(began))
			began = at
		}
	}
	b.report.add(row{
		What: "crash of a host → A3 proof that it is dead, preset " + preset + ", p99 of " + fmt.Sprint(len(whole)) + " hosts", Target: "≤ " + target.String(),
		Measured: fmt.Sprintf("p50 %.1f s, p99 %.1f s", whole.p50().Seconds(), whole.at(0.99).Seconds()), Value: whole.at(0.99).Seconds(), Limit: target.Seconds(),
		Parts: []string{
			fmt.Sprintf("crash → SUSPECT: p50 %.1f s, slowest %.1f s; → idle, guards, armed: p50 %.2f s, slowest %.2f s; → OFF settled: p50 %.1f s, slowest %.1f s",
				parts[0].p50().Seconds(), parts[0].max().Seconds(), parts[1].p50().Seconds(), parts[1].max().Seconds(), parts[2].p50().Seconds(), parts[2].max().Seconds()),
			fmt.Sprintf("%d hosts; processes: 3 workers, an agent and a guest for each host; one BMC each over RMCP+ on UDP; one etcd member in the fleet's own process; the clock starts before the command that crashes the host is started", b.n.Fleet),
		},
	})
}

// devFleet is a running `holdfast dev`.
type devFleet struct {
	b    *bench
	home string
	proc *world.Proc
	api  *v1.Client
}

func (b *bench) devFleet(preset string) *devFleet {
	b.t.Helper()
	f := &devFleet{b: b, home: filepath.Join(b.dir, "dev-"+preset)}
	bin, err := proc.Build("holdfast")
	if err == nil {
		err = os.MkdirAll(f.home, 0o700)
	}
	log := filepath.Join(f.home, "dev.log")
	if err == nil {
		f.proc, err = b.spawner.Start(world.Child{Exec: bin, Args: []string{"dev", "--hosts", fmt.Sprint(b.n.Fleet), "--preset", preset}, Env: f.environ(), Log: log})
	}
	if err != nil {
		b.t.Fatal(err)
	}
	b.until(deadline, func() string {
		text, _ := os.ReadFile(log)
		select {
		case <-f.proc.Done():
			b.t.Fatalf("holdfast dev has ended:\n%s", text)
		default:
		}
		if !strings.Contains(string(text), "\n  data  ") {
			return "holdfast dev is not ready:\n" + string(text)
		}
		var endpoints []string
		for line := range strings.Lines(string(text)) {
			if w := strings.Fields(line); len(w) == 2 && w[0] == "API" {
				endpoints = append(endpoints, w[1])
			}
		}
		f.api, err = v1.NewClient(v1.Options{Endpoints: endpoints, Actor: "perf", Timeout: 10 * time.Second})
		if err != nil {
			b.t.Fatal(err)
		}
		return ""
	})
	return f
}

// environ keeps the fleet apart from others of this user.
func (f *devFleet) environ() []string {
	return []string{"HOME=" + f.home, "XDG_CONFIG_HOME=" + f.home, "TMPDIR=" + f.home, "HOLDFAST_CONTEXT="}
}

func (f *devFleet) end() {
	f.proc.Expect()
	if err := f.proc.Signal(syscall.SIGINT); err != nil {
		f.b.t.Error(err)
	}
	<-f.proc.Done()
}

// witnessed waits until all hosts are AVAILABLE and were seen alive by neighbours: before
// that a silence would prove nothing.
func (f *devFleet) witnessed() (names []string) {
	f.b.t.Helper()
	f.b.until(deadline, func() string {
		all, err := f.api.Hosts(f.b.t.Context(), v1.HostQuery{})
		if err != nil {
			return err.Error()
		}
		names = names[:0]
		for _, h := range all {
			if h.Status.State != "AVAILABLE" || len(h.Status.Witnessed) == 0 {
				return fmt.Sprintf("%s is %s, seen alive by %v", h.Spec.ID, h.Status.State, h.Status.Witnessed)
			}
			names = append(names, h.Spec.ID)
		}
		if len(names) != f.b.n.Fleet {
			return fmt.Sprintf("%d hosts", len(names))
		}
		return ""
	})
	return names
}

// victim is the number of the host that is broken i-th: the first of each cluster of four,
// then the second of each, so that few of those that fell lately share a rack or a pool.
func (f *devFleet) victim(i int) int {
	clusters := max(1, f.b.n.Fleet/4)
	return (i%clusters*4 + i/clusters) % f.b.n.Fleet
}

// crash crashes a host and returns when, and when each stage had ended.
func (f *devFleet) crash(host string) (began time.Time, ends []time.Time) {
	f.b.t.Helper()
	ctx, cancel := context.WithTimeout(f.b.t.Context(), deadline)
	defer cancel()
	bin, err := proc.Build("holdfast")
	if err != nil {
		f.b.t.Fatal(err)
	}
	began = time.Now()
	cmd := exec.CommandContext(ctx, bin, "dev", "break", host, "--how", "crash")
	cmd.Env = append(os.Environ(), f.environ()...)
	if out, err := cmd.CombinedOutput(); err != nil {
		f.b.t.Fatalf("break %s: %v\n%s", host, err, out)
	}
	f.b.until(deadline, func() string {
		all, err := f.api.Events(ctx, v1.EventQuery{Host: host, Since: began})
		if err != nil {
			return err.Error()
		}
		ends = ends[:0]
		for _, e := range all {
			if len(ends) < len(stages) && e.Type == stages[len(ends)] {
				ends = append(ends, e.At)
			}
		}
		if len(ends) < len(stages) {
			return fmt.Sprintf("%s is not proven dead: no event %s", host, stages[len(ends)])
		}
		return ""
	})
	return began, ends
}

// back waits until a host is AVAILABLE again.
func (f *devFleet) back(host string) {
	f.b.t.Helper()
	f.b.until(deadline, func() string {
		h, err := f.api.Host(f.b.t.Context(), host)
		if err != nil {
			return err.Error()
		}
		if h.Status.State != "AVAILABLE" {
			return fmt.Sprintf("%s is %s (%s)", host, h.Status.State, h.Status.Reason)
		}
		return ""
	})
}
