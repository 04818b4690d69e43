// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast-ha/holdfast/agent"
	"github.com/holdfast-ha/holdfast/agent/exec"
	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/agent/hypervisor/dirs"
	"github.com/holdfast-ha/holdfast/agent/journal"
	"github.com/holdfast-ha/holdfast/coordinator/command"
	"github.com/holdfast-ha/holdfast/leases"
	sim "github.com/holdfast-ha/holdfast/sim/hypervisor"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

const (
	perHost     = 10       // commands of a host at once
	copiedBytes = 64 << 10 // of each of them
	writesLimit = 12       // writes of etcd per command
	returnLimit = 2.0      // seconds from the agent's return to RECONCILED
	journalMost = 1.2      // syncs a step may cost
	asOfRoom    = 8 << 10  // of the file that one sync is measured with
)

// commands measures issue 7: commands at once, an agent that returns, the journal.
func (b *bench) commands() {
	b.journal()
	b.startWorkers()
	defer b.stopWorkers()
	// The load is that of many hosts on one machine: their words must not be taken for silence.
	b.set("agent.ping.interval", "5s")
	b.atOnce()
	b.returns()
}

// journal compares a step of the agent's journal with one sync of a file that has its room.
func (b *bench) journal() {
	b.t.Helper()
	dir := filepath.Join(b.dir, "journal")
	j, err := journal.Open(dir, "b", "p")
	if err != nil {
		b.t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(b.dir, "sync"))
	if err == nil {
		_, err = f.Write(make([]byte, asOfRoom))
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	spec := command.Spec{V: command.Version, Kind: command.Copy, Items: []command.Item{{Volume: "v", Format: "raw", From: command.Ref{Pool: "a", Path: "v.raw"}, To: command.Ref{Pool: "b", Path: "n.raw"}, Temporary: ".n.raw.part"}}}
	var steps, syncs times
	for n := range b.n.Puts {
		id := fmt.Sprintf("c%04d", n)
		for k, write := range []func() error{
			func() error { return j.Begin(id, spec, "taken by the agent") },
			func() error { return j.Step(id, command.Processing, "copying") },
			func() error { return j.Step(id, command.Completed, "copied") },
		} {
			took := b.timed(1, func(context.Context, int) error { return write() })
			plain := b.timed(1, func(context.Context, int) error {
				_, err := f.WriteAt(make([]byte, 300), int64(k*300))
				return errors.Join(err, f.Sync())
			})
			if n > 0 { // the first one makes its file
				steps, syncs = append(steps, took...), append(syncs, plain...)
			}
		}
		if err := j.Forget(id, 3); err != nil {
			b.t.Fatal(err)
		}
	}
	ratio := float64(steps.p50()) / float64(syncs.p50())
	b.report.add(row{
		What: "Agent's journal, one write", Target: fmt.Sprintf("≤ %.1f × one sync of a file", journalMost), Value: ratio, Limit: journalMost,
		Measured: fmt.Sprintf("%.2f × (p50 of %d writes, one in three begins an entry: %s; a sync right after each: %s)", ratio, len(steps), ms(steps.p50()), ms(syncs.p50())),
		Why:      whyJournal,
	})
}

// machine is a simulated host with two pools, and an agent that can be stopped.
type machine struct {
	b      *bench
	id     string
	from   dirs.Dir
	to     dirs.Dir
	faults *sim.Faults
	socket string

	mu   sync.Mutex
	stop func()
	at   func(ctx context.Context, p exec.Point)
}

// machines makes hosts with pools and volumes, each host in a partition of ten.
func (b *bench) machines(name string, n, volumes int) []*machine {
	b.t.Helper()
	var all []*machine
	var ops []leases.Op
	for i := range n {
		m := &machine{b: b, id: fmt.Sprintf("%s%03d", name, i)}
		home := filepath.Join(b.dir, "machines", m.id)
		m.from, m.to = dirs.Dir{ID: "a-" + m.id, Type: hypervisor.Local, Path: filepath.Join(home, "a")}, dirs.Dir{ID: "b-" + m.id, Type: hypervisor.Local, Path: filepath.Join(home, "b")}
		for _, d := range []string{m.from.Path, m.to.Path, filepath.Join(home, "engine")} {
			if err := os.MkdirAll(d, 0o700); err != nil {
				b.t.Fatal(err)
			}
		}
		m.faults = sim.NewFaults(filepath.Join(home, "faults"))
		m.socket = "@" + strings.ReplaceAll(home, "/", "_")
		for _, d := range []dirs.Dir{m.from, m.to} {
			ops = append(ops, leases.Put(leases.PoolKey(d.ID), v1.Pool{V: 1, ID: d.ID, Type: "local", Role: "primary", Hosts: []string{m.id}}))
		}
		for k := range volumes {
			v := fmt.Sprintf("v-%s-%d", m.id, k)
			if err := os.WriteFile(filepath.Join(m.from.Path, v+".raw"), make([]byte, copiedBytes), 0o600); err != nil {
				b.t.Fatal(err)
			}
			ops = append(ops, leases.Put(leases.VolumeKey(v), v1.Volume{V: 1, ID: v, Place: v1.Place{Pool: m.from.ID, Path: v + ".raw"}, Format: "raw", Size: copiedBytes, State: "ready"}))
		}
		ops = append(ops, leases.Put(leases.HostSpecKey(m.id), v1.HostSpec{V: 1, ID: m.id, Partition: fmt.Sprintf("z/%s/c%d", name, i/10), Provider: "kvm", Pools: []string{m.from.ID, m.to.ID}}))
		all = append(all, m)
	}
	client, err := leases.Dial(b.t.Context(), leases.Config{Endpoints: b.endpoints})
	if err != nil {
		b.t.Fatal(err)
	}
	defer client.Close()
	for from := 0; from < len(ops); from += 100 {
		part := ops[from:min(len(ops), from+100)]
		b.timed(1, func(ctx context.Context, _ int) error {
			_, err := client.Commit(ctx, leases.Unowned(), part...)
			return err
		})
	}
	for _, m := range all {
		e, err := sim.NewEngine(sim.EngineConfig{Socket: m.socket, Dir: filepath.Join(b.dir, "machines", m.id, "engine"), Dirs: []dirs.Dir{m.from, m.to}, Gate: m.faults.Gate})
		if err != nil {
			b.t.Fatal(err)
		}
		b.background(e.Run)
		m.start()
	}
	b.until(startTime, func() string {
		for _, m := range all {
			if x, err := b.api.Host(b.t.Context(), m.id); err != nil || x.Status.Linked != v1.LinkedYes || x.Status.LastPing.IsZero() {
				return fmt.Sprintf("%s is not linked (%v)", m.id, err)
			}
		}
		return ""
	})
	return all
}

// start starts the agent: a new process of it.
func (m *machine) start() {
	m.b.t.Helper()
	remote, err := sim.NewRemote(sim.RemoteConfig{Boot: "boot-" + m.id, Engine: m.socket, Dirs: []dirs.Dir{m.from, m.to}, Gate: m.faults.Gate, Refused: sim.Refused(filepath.Join(m.b.dir, "machines", m.id, "refused"))})
	if err != nil {
		m.b.t.Fatal(err)
	}
	var doors []string
	for _, w := range m.b.workers {
		doors = append(doors, w.door)
	}
	a, err := agent.New(agent.Options{
		Host: m.id, Workers: doors, StateDir: filepath.Join(m.b.dir, "machines", m.id, "agent"), Version: "perf", InsecureLoopback: true, Hypervisor: remote,
		Dial: func(ctx context.Context, address string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		},
		Observe: func(ctx context.Context, _ string, p exec.Point) {
			m.mu.Lock()
			at := m.at
			m.mu.Unlock()
			if at != nil {
				at(ctx, p)
			}
		},
	})
	if err != nil {
		m.b.t.Fatal(err)
	}
	m.stop = m.b.background(a.Run)
}

// ask asks for a copy, until it is on record.
func (b *bench) ask(m *machine, volume string) (id string) {
	b.t.Helper()
	q := v1.CommandRequest{Kind: "copy", Volume: volume, As: "n" + strings.TrimPrefix(volume, "v"), Host: m.id, Pool: m.to.ID, Key: uuid.NewString()}
	b.until(startTime, func() string {
		c, err := b.api.NewCommand(b.t.Context(), q)
		if err != nil {
			return fmt.Sprintf("ask for a copy of %s: %v", volume, err)
		}
		id = c.ID
		return ""
	})
	return id
}

// over waits until all commands of hosts but the stuck ones are over, and returns them.
func (b *bench) over(ids map[string]bool) []v1.Command {
	b.t.Helper()
	var out []v1.Command
	b.until(10*time.Minute, func() string {
		all, err := b.api.Commands(b.t.Context(), v1.CommandQuery{})
		if err != nil {
			return fmt.Sprintf("list commands: %v", err)
		}
		out = out[:0]
		for _, c := range all {
			if ids[c.ID] && c.Ended {
				out = append(out, c)
			}
		}
		if len(out) < len(ids) {
			return fmt.Sprintf("%d of %d commands are over", len(out), len(ids))
		}
		return ""
	})
	return out
}

// atOnce: many commands at once over many hosts, one of which is stuck: nothing that goes
// to its pool comes to an end.
func (b *bench) atOnce() {
	b.t.Helper()
	all := b.machines("m", b.n.Machines, perHost)
	if err := all[0].faults.Set(map[string]sim.Fault{all[0].to.ID: {Kind: sim.Hang}}); err != nil {
		b.t.Fatal(err)
	}
	b.quiet(b.n.Settle/2, 4*b.n.Settle)
	before := b.revision()
	began := time.Now()
	ids, stuck := map[string]bool{}, map[string]bool{}
	var mu sync.Mutex
	var asking errgroup.Group
	asking.SetLimit(32)
	for _, m := range all {
		for k := range perHost {
			asking.Go(func() error {
				id := b.ask(m, fmt.Sprintf("v-%s-%d", m.id, k))
				mu.Lock()
				defer mu.Unlock()
				if m == all[0] {
					stuck[id] = true
				} else {
					ids[id] = true
				}
				return nil
			})
		}
	}
	_ = asking.Wait() // none of them returns an error
	done := b.over(ids)
	took := time.Since(began)
	b.quiet(b.n.Settle/2, 4*b.n.Settle)
	writes := float64(b.revision()-before) / float64(len(ids)+len(stuck))
	lost := 0
	for _, c := range done {
		if c.Outcome == nil || !c.Outcome.Done {
			lost++
		}
	}
	for _, m := range all[1:] {
		made, err := os.ReadDir(m.to.Path)
		if err != nil {
			b.t.Fatal(err)
		}
		lost += max(0, perHost-len(made))
	}
	b.report.add(row{
		What: fmt.Sprintf("%d commands at once over %d hosts, those of one host stuck: lost or failed", len(ids)+len(stuck), len(all)), Target: "0",
		Value: float64(lost), Measured: fmt.Sprintf("%d; the others were over after %v", lost, took.Round(10*time.Millisecond)), Why: whyOnce,
	})
	b.report.add(row{
		What: "Writes of etcd per command, of those", Target: fmt.Sprintf("≤ %d", writesLimit), Value: writes, Limit: writesLimit, Measured: fmt.Sprintf("%.1f revisions", writes),
	})
	if err := all[0].faults.Set(nil); err != nil {
		b.t.Fatal(err)
	}
	b.over(stuck)
	for _, m := range all {
		m.stop()
	}
}

// returns: an agent ends in the middle of a copy and returns; until RECONCILED is on record.
func (b *bench) returns() {
	b.t.Helper()
	m := b.machines("r", 1, b.n.Returns)[0]
	var took times
	for k := range b.n.Returns {
		reached := make(chan struct{})
		var once sync.Once
		m.mu.Lock()
		m.at = func(ctx context.Context, p exec.Point) {
			if p == exec.Transfer {
				once.Do(func() { close(reached) })
				<-ctx.Done()
			}
		}
		m.mu.Unlock()
		id := b.ask(m, fmt.Sprintf("v-%s-%d", m.id, k))
		select {
		case <-reached:
		case <-time.After(startTime):
			b.t.Fatalf("the copy of command %s did not begin within %v", id, startTime)
		}
		m.stop()
		m.mu.Lock()
		m.at = nil
		m.mu.Unlock()
		began := time.Now()
		m.start()
		b.until(startTime, func() string {
			c, err := b.api.Command(b.t.Context(), id)
			if err != nil || c.Outcome == nil {
				return fmt.Sprintf("command %s is %s (%v)", id, c.State, err)
			}
			return ""
		})
		took = append(took, time.Since(began))
		b.over(map[string]bool{id: true})
	}
	m.stop()
	b.report.add(row{
		What: "Agent returns → its interrupted command is RECONCILED", Target: fmt.Sprintf("≤ %.0f s", returnLimit), Value: took.max().Seconds(), Limit: returnLimit,
		Measured: fmt.Sprintf("p50 %s, max %s of %d; an agent of a new process, read by polling every %v", ms(took.p50()), ms(took.max()), len(took), pollEvery),
	})
}
