// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/leases/etcdtest"
	"github.com/holdfast-ha/holdfast/sim/bmc"
	"github.com/holdfast-ha/holdfast/sim/world"
)

// bmcFaults are the sicknesses of a BMC that a schedule names.
var bmcFaults = map[string]bmc.Faults{
	"mute":     {Mute: true},
	"slow":     {Delay: 700 * time.Millisecond, Jitter: 300 * time.Millisecond},
	"lossy":    {LoseRequests: 25, LoseAnswers: 25, DuplicateAnswers: 25},
	"busy":     {Busy: 2, BusyReads: 3},
	"no-slots": {NoSlots: true},
}

// span is a time in which something was wrong with a host or a worker.
type span struct {
	who      string
	from, to time.Time // to is zero until it is over
	why      string
}

func (s span) has(at time.Time, grace time.Duration) bool {
	return !at.Before(s.from) && (s.to.IsZero() || !at.After(s.to.Add(grace)))
}

// performer carries out a schedule and keeps the truth about what was broken when.
type performer struct {
	f     *fleet
	aside errgroup.Group // what is done while the schedule goes on

	mu     sync.Mutex
	broken []span          // hosts, and the links of workers
	dead   map[string]bool // hosts whose instances cannot run: power commands may reach them
	killed []span          // workers
	stalls []span          // times in which this process itself stood still
	done   int
}

func newPerformer(f *fleet) *performer { return &performer{f: f, dead: map[string]bool{}} }

// perform does everything in time and returns when the last fault has ended.
func (p *performer) perform(ctx context.Context, s schedule) error {
	type act struct {
		at   time.Duration
		what string
		do   func() error
	}
	var acts []act
	for _, f := range s.Faults {
		begin, end := p.actions(f)
		acts = append(acts, act{f.At, f.String(), begin})
		if end != nil {
			acts = append(acts, act{f.At + f.For, "end of " + f.String(), end})
		}
	}
	slices.SortStableFunc(acts, func(a, b act) int { return int(a.at - b.at) })
	began := time.Now()
	for _, a := range acts {
		timer := time.NewTimer(time.Until(began.Add(a.at)))
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		}
		if err := a.do(); err != nil {
			return fmt.Errorf("%s: %w", a.what, err)
		}
		p.done++
	}
	return p.aside.Wait()
}

// actions are the beginning and the end of a fault.
func (p *performer) actions(x fault) (begin, end func() error) {
	w := p.f.worker(x.Target)
	switch x.Kind {
	case killWorker:
		return func() error { p.wasKilled(w.id, x.How); return w.kill(x.How) }, func() error { w.want(true); return nil }
	case restartWorker:
		return w.restart, nil
	case drainWorker:
		key := leases.DrainKey(w.id)
		return func() error {
				_ = p.f.history.write(time.Second, clientv3.OpPut(key, `{"v":1,"worker":"`+w.id+`","by":"chaos","reason":"schedule"}`)) // without quorum there is no such order
				return nil
			}, func() error {
				p.aside.Go(func() error { // what gives the quorum back may come later in the schedule
					return p.f.history.write(settleTime, clientv3.OpDelete(key))
				})
				return nil
			}
	case pauseWorker:
		return func() error { return w.pause(x.How) }, w.resume
	case cutEtcd:
		hold := func(d etcdtest.Dir) func() error {
			return func() error {
				for i, e := range w.etcd {
					if x.Member == 0 || x.Member == i+1 {
						e.Hold(d)
					}
				}
				return nil
			}
		}
		return hold(directions[x.How]), hold(0)
	case dropEtcd:
		return func() error {
			for _, e := range w.etcd {
				e.Cut()
			}
			return nil
		}, nil
	case delayEtcd:
		lag := func(d time.Duration) func() error {
			return func() error {
				for _, e := range w.etcd {
					e.Delay(d)
				}
				return nil
			}
		}
		return lag(x.Lag), lag(0)
	case cutLink:
		return func() error { p.breaks(w.id, "link cut"); w.link.Hold(directions[x.How]); return nil },
			func() error { w.link.Release(); p.mends(w.id); return nil }
	case dropLink:
		return func() error { w.link.Cut(); return nil }, nil
	case delayLink:
		return func() error { w.link.Delay(x.Lag); return nil }, func() error { w.link.Delay(0); return nil }
	case killLeader:
		var m *member
		return func() (err error) {
				if m, err = p.f.leader(); err != nil {
					return nil // nobody leads right now: nothing to kill
				}
				return m.kill()
			}, func() error {
				if m == nil {
					return nil
				}
				return m.start(p.f.spawner)
			}
	case restartMember:
		m := p.f.members[x.Member-1]
		return m.kill, func() error { return m.start(p.f.spawner) }
	case loseQuorum:
		return func() error { return errors.Join(p.f.members[0].kill(), p.f.members[1].kill()) },
			func() error {
				return errors.Join(p.f.members[0].start(p.f.spawner), p.f.members[1].start(p.f.spawner))
			}
	case compact:
		return func() error {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = p.f.history.compact(ctx) // without quorum there is nothing to compact
			return nil
		}, nil
	case breakHost:
		return func() error {
				p.breaks(x.Target, x.How)
				err := p.f.world.Break(x.Target, world.How(x.How), false)
				if errors.Is(err, world.ErrNotNow) {
					return nil
				}
				return err
			}, func() error {
				err := p.f.world.Repair(x.Target)
				p.mends(x.Target)
				return err
			}
	case sickBMC:
		h, err := p.f.world.Host(x.Target)
		return func() error { return errors.Join(err, h.SetBMCFaults(bmcFaults[x.How])) },
			func() error { return errors.Join(err, h.SetBMCFaults(bmc.Faults{})) }
	}
	return func() error { return fmt.Errorf("no such fault") }, nil
}

var directions = map[string]etcdtest.Dir{"requests": etcdtest.Requests, "answers": etcdtest.Answers, "both": etcdtest.Both}

// harmless breaks leave the instances of a host running.
var harmless = []string{string(world.AgentKilled), string(world.LinkLost), string(world.BMCDead), "link cut"}

func (p *performer) breaks(who, why string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.broken = append(p.broken, span{who: who, from: time.Now(), why: why})
	if !slices.Contains(harmless, why) {
		p.dead[who] = true
	}
}

func (p *performer) mends(who string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.broken {
		if p.broken[i].who == who && p.broken[i].to.IsZero() {
			p.broken[i].to = time.Now()
		}
	}
}

func (p *performer) wasKilled(id, how string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.killed = append(p.killed, span{who: id, from: time.Now(), why: how})
}

const (
	beat     = 50 * time.Millisecond
	standing = time.Second // longer than this between two beats is worth knowing
)

// watchSelf notes when this process gets no processor: cables and proxies run in it, and
// hosts whose cables stand still are really cut.
func (p *performer) watchSelf(ctx context.Context) error {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := time.Now()
		if now.Sub(last) > standing {
			p.mu.Lock()
			p.stalls = append(p.stalls, span{who: "self", from: last, to: now})
			p.mu.Unlock()
		}
		last = now
	}
}

var errNoLeader = errors.New("no etcd member leads")

// leader asks the members who leads.
func (f *fleet) leader() (*member, error) {
	for _, m := range f.members {
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		s, err := f.history.cli.Status(ctx, m.Endpoint())
		cancel()
		if err == nil && s.Leader != 0 && s.Leader == s.Header.MemberId {
			return m, nil
		}
	}
	return nil, errNoLeader
}

// hostState is the state of a host as it is on record.
func (f *fleet) hostState(host string) string {
	c, _ := f.history.get(leases.HostHAKey(host))
	return stateOf(c.Val)
}

func stateOf(record []byte) string {
	var r struct {
		State string `json:"state"`
	}
	_ = json.Unmarshal(record, &r) // nothing on record: no state
	return r.State
}

// notAvailable names the first thing that is not as it should be: a slot without a live
// owner, a host that is not AVAILABLE.
func (f *fleet) notAvailable() string {
	for n := range slotCount {
		c, ok := f.history.get(leases.SlotKey(n))
		if !ok {
			return fmt.Sprintf("slot %04d has no owner", n)
		}
		o := ownerOf(c)
		w, live := f.history.get(leases.WorkerKey(o.Worker))
		if !live || ownerOf(w).Boot != o.Boot {
			return fmt.Sprintf("slot %04d is owned by %s, boot %s, which is not registered", n, o.Worker, o.Boot)
		}
	}
	for _, p := range f.places {
		if s := f.hostState(p.Host); s != "AVAILABLE" {
			return fmt.Sprintf("host %s is %q (logs: %s)", p.Host, s, f.dir)
		}
	}
	return ""
}

// neverSeen names a host of which no sign of life but pings was seen so far: its silence
// would prove nothing (ha.md §5).
func (f *fleet) neverSeen() string {
	for _, p := range f.places {
		var r struct{ SeenDisks, SeenProbe bool }
		c, _ := f.history.get(leases.HostHAKey(p.Host))
		_ = json.Unmarshal(c.Val, &r) // nothing on record: nothing seen
		if !r.SeenDisks || !r.SeenProbe {
			return fmt.Sprintf("host %s: disks seen writing %v, probe seen answered %v", p.Host, r.SeenDisks, r.SeenProbe)
		}
	}
	return ""
}
