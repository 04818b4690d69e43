// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast-ha/holdfast/leases"
)

const (
	fencingClients = 4
	fencingSlots   = 12
	burst          = 8 // stale commits at once
	checkTime      = 2 * time.Minute
)

var (
	fencingSmoke = shape{minWorkers: fencingClients, maxWorkers: fencingClients, length: 7 * time.Second, gap: 700 * time.Millisecond, kinds: etcdKinds}
	fencingLong  = shape{minWorkers: fencingClients, maxWorkers: fencingClients, length: 2 * time.Minute, gap: time.Second, kinds: etcdKinds}
)

// TestFencing proves that a slot with the record it guards is one linearizable register
// with fencing, also for writes that were on their way while their writer lost the slot:
// clients of package leases claim, hand over, commit in present and past epochs
// and read, behind proxies that silence, delay and cut, while etcd loses members.
func TestFencing(t *testing.T) {
	shortly(t)
	if *long && *mode == "fencing" {
		eachSeed(t, func(t *testing.T, seed uint64, total map[string]int) {
			runFencing(t, generate(seed, fencingLong), total)
		})
		return
	}
	runFencing(t, generate(smokeSeed, fencingSmoke), map[string]int{})
}

func runFencing(t *testing.T, plan schedule, total map[string]int) {
	t.Logf("%s", plan)
	defer func() {
		if t.Failed() {
			t.Logf("replay it with: make chaos MODE=fencing SEED=%d", plan.Seed)
		}
	}()
	f := newCluster(t, nil)
	x := &fencing{began: time.Now(), counts: map[string]int{}, claims: make([]leases.Claim, fencingSlots), regs: map[string]leases.KV{}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var work errgroup.Group
	for i := range fencingClients {
		w := &worker{id: fmt.Sprintf("w%d", i+1)}
		urls := f.wayToEtcd(w, i+1)
		f.workers = append(f.workers, w)
		c := &fencer{fencing: x, id: i, r: rand.New(rand.NewPCG(plan.Seed, uint64(i)))}
		work.Go(func() error { return c.run(ctx, urls) })
	}
	p := newPerformer(f)
	if err := p.perform(ctx, plan); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := work.Wait(); err != nil {
		t.Fatal(err)
	}
	f.until(settleTime, func() string {
		if err := f.history.caughtUp(t.Context()); err != nil {
			return err.Error()
		}
		return ""
	})
	ops := x.complete(f.history.all())
	if result, info := porcupine.CheckOperationsVerbose(register, ops, checkTime); result != porcupine.Ok {
		t.Errorf("%d operations on %d slots: %s, want a linearizable register with fencing%s", len(ops), fencingSlots, result, stuck(ops, info))
	}
	x.counts["operations checked"], x.counts["schedules"] = len(ops), 1
	for k, v := range x.counts {
		total[k] += v
	}
	t.Logf("operations by outcome:%s", tally(x.counts))
	if x.counts["commits in a past epoch"] == 0 || x.counts["claim done"] == 0 || x.counts["commit done"] == 0 {
		t.Errorf("too little happened to prove anything")
	}
}

// stuck tells, of the first slot whose operations have no order, the last ones that have
// and the first that do not fit behind them.
func stuck(ops []porcupine.Operation, info porcupine.LinearizationInfo) string {
	for n, orders := range info.PartialLinearizationsOperations() {
		var longest []porcupine.Operation
		for _, o := range orders {
			if len(o) > len(longest) {
				longest = o
			}
		}
		fits := map[string]bool{}
		for _, o := range longest {
			fits[fmt.Sprint(o)] = true
		}
		rest := slices.DeleteFunc(slices.Clone(register.Partition(ops)[n]), func(o porcupine.Operation) bool { return fits[fmt.Sprint(o)] })
		if len(rest) == 0 {
			continue
		}
		slices.SortFunc(rest, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
		var b strings.Builder
		for _, part := range [][]porcupine.Operation{longest[max(0, len(longest)-12):], rest[:min(12, len(rest))]} {
			for _, o := range part {
				fmt.Fprintf(&b, "\n  client %d %.3fs to %.3fs: %+v → %+v", o.ClientId, time.Duration(o.Call).Seconds(), time.Duration(o.Return).Seconds(), o.Input, o.Output)
			}
			b.WriteString("\n  --")
		}
		return b.String()
	}
	return ""
}

// call is what a client asks; answer what came back.
type call struct {
	op      string // claim, hand-over, commit, read, put, gone
	slot    int
	epoch   int64 // of the claim that is used, or that is gone
	rev     int64 // compared revision of the record; -1: none
	content string
}

type answer struct {
	how     string // done, refused, fenced, conflict
	epoch   int64  // new
	rev     int64
	content string
}

// register is the model: an owner's epoch (0: nobody) that guards a record.
var register = porcupine.Model{
	Partition: func(all []porcupine.Operation) [][]porcupine.Operation {
		out := make([][]porcupine.Operation, fencingSlots)
		for _, o := range all {
			n := o.Input.(call).slot
			out[n] = append(out[n], o)
		}
		return out
	},
	Init: func() any { return cell{} },
	Step: func(s, in, out any) (bool, any) { return step(s.(cell), in.(call), out.(answer)) },
}

type cell struct {
	epoch, rev int64
	content    string
}

func step(s cell, in call, out answer) (bool, cell) {
	switch in.op + " " + out.how {
	case "claim done": // put has told when
		return s.epoch == out.epoch, s
	case "claim refused":
		return s.epoch != 0, s
	case "put done": // as the history has it; only what is given may have an owner before
		ok := s.epoch == 0 || in.content != ""
		s.epoch = out.epoch
		return ok, s
	case "hand-over done":
		ok := s.epoch == in.epoch
		s.epoch = out.epoch
		return ok, s
	case "hand-over refused", "commit fenced":
		return s.epoch != in.epoch, s
	case "gone done": // as the history has it, with its lease
		ok := s.epoch == in.epoch
		s.epoch = 0
		return ok, s
	case "commit done":
		ok := s.epoch == in.epoch && (in.rev < 0 || in.rev == s.rev)
		return ok, cell{s.epoch, out.rev, in.content}
	case "commit conflict":
		return in.rev != s.rev, s
	case "read done":
		return out.rev == s.rev && out.content == s.content, s
	}
	return false, s
}

// fencing is what all clients share: the operations, and rumours of claims, mostly stale.
type fencing struct {
	began time.Time

	mu     sync.Mutex
	ops    []porcupine.Operation
	open   []porcupine.Operation // of which their callers know no outcome
	counts map[string]int
	claims []leases.Claim // last heard of each slot
	regs   map[string]leases.KV
	serial int
}

func (x *fencing) now() int64 { return int64(time.Since(x.began)) }

func (x *fencing) record(client int, began int64, in call, out answer, known bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	o := porcupine.Operation{ClientId: client, Input: in, Call: began, Output: out, Return: x.now()}
	if !known {
		x.counts[in.op+" unanswered"]++
		x.open = append(x.open, o)
		return
	}
	x.counts[in.op+" "+out.how]++
	x.ops = append(x.ops, o)
}

// fencer is one client: one session after the other.
type fencer struct {
	*fencing
	id     int
	r      *rand.Rand
	client *leases.Client
	s      *leases.Session
	mine   map[int]leases.Claim
	past   []leases.Claim
	reigns int
}

func (c *fencer) run(ctx context.Context, urls []string) error {
	var err error
	for c.client == nil {
		if c.client, err = leases.Dial(ctx, leases.Config{Endpoints: urls}); err != nil && ctx.Err() != nil {
			return nil
		}
	}
	defer c.client.Close()
	for ctx.Err() == nil {
		c.reigns++
		boot := fmt.Sprintf("c%d-%d", c.id, c.reigns)
		octx, cancel := context.WithTimeout(ctx, 3*time.Second)
		s, err := c.client.OpenSession(octx, leases.SessionConfig{Worker: boot, Boot: boot, TTL: leaseTTL, Record: struct{}{}})
		cancel()
		if err != nil {
			continue
		}
		c.s, c.mine = s, map[int]leases.Claim{}
		sctx, end := context.WithCancel(context.WithoutCancel(ctx))
		over := make(chan struct{})
		go func() {
			defer close(over)
			_ = s.Run(sctx) // however it ends, it ends
		}()
		c.introduce(ctx, boot)
		for ctx.Err() == nil && s.Valid(0) {
			c.one(ctx)
		}
		end()
		<-over
	}
	return nil
}

// introduce lets the others know where they may hand slots to.
func (c *fencer) introduce(ctx context.Context, boot string) {
	gctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if kv, err := c.client.Get(gctx, leases.WorkerKey(boot)); err == nil {
		c.mu.Lock()
		c.regs[fmt.Sprint(c.id)] = kv
		c.mu.Unlock()
	}
}

// one does one operation on one slot.
func (c *fencer) one(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(50+c.r.IntN(1500))*time.Millisecond)
	defer cancel()
	n := c.r.IntN(fencingSlots)
	held, holds := c.mine[n]
	c.mu.Lock()
	heard := c.claims[n]
	c.mu.Unlock()
	switch dice := c.r.IntN(20); {
	case dice < 3:
		c.read(ctx, n)
	case dice < 8 && len(c.past) > 0: // somebody who has not noticed
		c.stale(ctx)
	case holds && dice < 17:
		c.commit(ctx, held)
	case holds:
		c.handOver(ctx, held)
	case heard.Epoch.Revision > 0 && dice < 14: // handed to us, or another's: etcd knows
		c.commit(ctx, heard)
	default:
		c.claim(ctx, n)
	}
}

func (c *fencer) count(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[what]++
}

func (c *fencer) took(claim leases.Claim) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.claims[claim.Slot] = claim
}

func (c *fencer) lost(claim leases.Claim) {
	delete(c.mine, claim.Slot)
	if c.past = append(c.past, claim); len(c.past) > 64 {
		c.past = c.past[1:]
	}
}

func recordKey(slot int) string { return leases.HostHAKey(fmt.Sprintf("slot%d", slot)) }

// answered reports whether etcd's word about the slot is known: a session that is over
// refuses by itself.
func (c *fencer) answered(err error) bool {
	return err == nil || errors.Is(err, leases.ErrFenced) && c.s.Valid(0) || errors.Is(err, leases.ErrConflict)
}

func (c *fencer) claim(ctx context.Context, n int) {
	began, in := c.now(), call{op: "claim", slot: n}
	got, err := c.s.Claim(ctx, []int{n})
	switch {
	case err != nil:
		c.record(c.id, began, in, answer{}, false)
	case len(got) == 0:
		c.record(c.id, began, in, answer{how: "refused"}, true)
	default:
		c.record(c.id, began, in, answer{how: "done", epoch: got[0].Epoch.Revision}, true)
		c.mine[n] = got[0]
		c.took(got[0])
	}
}

func (c *fencer) handOver(ctx context.Context, x leases.Claim) {
	c.mu.Lock()
	to, known := c.regs[fmt.Sprint(c.r.IntN(fencingClients))]
	c.mu.Unlock()
	if !known {
		return
	}
	began, in := c.now(), call{op: "hand-over", slot: x.Slot, epoch: x.Epoch.Revision}
	got, err := c.s.HandOver(ctx, []leases.Handover{{Claim: x, Worker: to}})
	switch {
	case err != nil:
		c.record(c.id, began, in, answer{}, false)
	case len(got) == 0:
		c.record(c.id, began, in, answer{how: "refused"}, true)
	default:
		c.record(c.id, began, in, answer{how: "done", epoch: got[0].Epoch.Revision}, true)
		c.took(got[0])
	}
	c.lost(x)
}

// stale commits in many past epochs at once, as a process does that wakes up.
func (c *fencer) stale(ctx context.Context) {
	var all sync.WaitGroup
	for range burst {
		x := c.past[c.r.IntN(len(c.past))]
		all.Go(func() {
			c.count("commits in a past epoch")
			c.put(ctx, x, -1)
		})
	}
	all.Wait()
}

func (c *fencer) commit(ctx context.Context, x leases.Claim) {
	rev := int64(-1)
	if c.r.IntN(2) == 0 {
		kv, err := c.client.Get(ctx, recordKey(x.Slot))
		if err != nil && !errors.Is(err, leases.ErrNotFound) {
			return
		}
		rev = kv.ModRevision
	}
	if c.put(ctx, x, rev) {
		c.lost(x)
	}
}

// put commits under a claim; rev -1 compares no revision. It returns whether it was fenced.
func (c *fencer) put(ctx context.Context, x leases.Claim, rev int64) bool {
	c.mu.Lock()
	c.serial++
	content := fmt.Sprintf(`{"v":1,"n":%d}`, c.serial)
	c.mu.Unlock()
	key, g := recordKey(x.Slot), x.Guard()
	if rev >= 0 {
		g = g.At(key, rev)
	}
	began, in := c.now(), call{op: "commit", slot: x.Slot, epoch: x.Epoch.Revision, rev: rev, content: content}
	at, err := c.s.Commit(ctx, g, leases.Put(key, json.RawMessage(content)))
	out := answer{how: "done", rev: at}
	switch {
	case errors.Is(err, leases.ErrFenced):
		out.how = "fenced"
	case errors.Is(err, leases.ErrConflict):
		out.how = "conflict"
	}
	known := c.answered(err)
	if !known && out.how == "done" {
		out.how = ""
	}
	c.record(c.id, began, in, out, known)
	return out.how == "fenced"
}

func (c *fencer) read(ctx context.Context, n int) {
	began := c.now()
	kv, err := c.client.Get(ctx, recordKey(n))
	if err != nil && !errors.Is(err, leases.ErrNotFound) {
		return // nothing was learnt and nothing was done
	}
	c.record(c.id, began, call{op: "read", slot: n}, answer{how: "done", rev: kv.ModRevision, content: string(kv.Value)}, true)
}

// complete puts what the history knows in place of what callers could not: every change
// of a slot's owner, and commits that were applied although their caller heard nothing, or
// heard "fenced" after an earlier copy had arrived in time (package leases, "outcomes of a
// write"). What left no trace in the history was not done.
func (x *fencing) complete(changes []change, marks []mark) []porcupine.Operation {
	var ops []porcupine.Operation
	given := map[int64]bool{}                   // epochs that a hand-over is known to have begun
	commits := map[string]porcupine.Operation{} // by content; not known to be done
	for _, o := range slices.Concat(x.ops, x.open) {
		in, out := o.Input.(call), o.Output.(answer)
		if in.op == "commit" && out.how != "done" {
			commits[in.content] = o
		}
		if in.op == "hand-over" && out.how == "done" {
			given[out.epoch] = true
		}
	}
	slots, applied := map[string]int64{}, map[string]bool{}
	for _, c := range changes {
		o := porcupine.Operation{ClientId: fencingClients, Output: answer{how: "done", epoch: c.Rev, rev: c.Rev}, Return: int64(c.Seen.Sub(x.began))}
		if t := notBefore(marks, c.Rev); !t.IsZero() {
			o.Call = int64(t.Sub(x.began))
		}
		n, isSlot := leases.SplitSlotKey(c.Key)
		switch {
		case isSlot && c.Del:
			o.Input = call{op: "gone", slot: n, epoch: slots[c.Key]}
			ops = append(ops, o)
			x.counts["slots gone"]++
		case isSlot:
			slots[c.Key] = c.Rev
			if from := ownerOf(c).From; !given[c.Rev] {
				o.Input = call{op: "put", slot: n, content: from}
				ops = append(ops, o)
			}
		case strings.HasPrefix(c.Key, leases.HostsPrefix):
			content := string(c.Val)
			if was, ok := commits[content]; ok {
				x.counts["commits done and answered "+cmp.Or(was.Output.(answer).how, "not at all")]++
				o.Input = was.Input
				ops, applied[content] = append(ops, o), true
			}
		}
	}
	for _, o := range x.ops {
		if in := o.Input.(call); !applied[in.content] || in.op != "commit" {
			ops = append(ops, o)
		}
	}
	return ops
}
