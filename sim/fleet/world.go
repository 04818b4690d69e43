// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/power"
)

type network int

const (
	mgmt network = iota
	storage
	oob
	networks
)

var networkNames = [...]string{"mgmt", "storage", "oob"}

type switchState string

const (
	switchUp    switchState = "up"
	switchDown  switchState = "down"
	switchAlone switchState = "alone" // its uplink is lost: its hosts see each other only
)

type netSwitch struct{ state switchState }

type poolMode string

const (
	poolOK       poolMode = "ok"
	poolHung     poolMode = "hung"
	poolFailed   poolMode = "failed"
	poolReadOnly poolMode = "readonly" // serves reads, takes no writes
	poolSlow     poolMode = "slow"     // every write takes slowWrite
)

const (
	slowWrite = 9 * time.Second
	hungAfter = 5 * time.Second // an agent calls a pool hung then
)

type pool struct{ mode poolMode }

type rack struct {
	mains bool
	spec  Rack
}

// pdu: one that is not alive feeds nobody and answers nobody.
type pdu struct{ alive bool }

// host is one hypervisor. The first half is what is true of it, the second what is on
// record of it in etcd.
type host struct {
	Host
	f    *Fleet
	idx  int
	rack *rack
	pdu  *pdu

	outlet  bool // of its PDU
	fed     bool
	chassis bool
	wantOn  bool // what the chassis goes back to when the mains do
	kernel  bool // has been booted and is not dead
	frozen  bool // the kernel stands still and may go on
	agent   bool
	hv      bool // the hypervisor answers its agent
	boots   bool // comes up when switched on
	deaf    bool // its agent confirms no gate
	bootNo  int
	bootSeq int // of the boot under way; a later one overtakes it
	runs    []string
	quiet   bool
	cut     [networks]bool
	badPool map[string]poolMode
	badFrom map[string]time.Time // a pool stands still for it since
	bmc     bmc

	pools  []string
	stamps []track // by pool
	writes []track
	link   link
	pace   ha.Pace // that its agent goes by: told with its last answered ping

	// What its agent remembers of others, and who remembers it (memory.go).
	watches  map[*host]*watch
	watchers []*host
	sight    []sight   // by pool
	stood    time.Time // the machine stands still since
	thawed   time.Time // and did so last until

	rec   ha.Record
	onRec bool
	pow   power.Machine
	tests map[string]test
	op    *intent
	owner *owner

	idleFor string    // incident in which it was seen idle last
	touched time.Time // last change of what could make it silent
}

func (f *Fleet) newHost(i int, spec Host) *host {
	r := f.top.Racks[spec.Rack]
	h := &host{
		Host: spec, f: f, idx: i, rack: f.racks[spec.Rack], pdu: f.pdus[r.PDU], outlet: true, fed: true,
		hv: true, boots: true, quiet: spec.Quiet, badPool: map[string]poolMode{}, badFrom: map[string]time.Time{},
		bmc: bmc{mode: bmcOK}, pools: spec.pools(), tests: map[string]test{},
	}
	h.stamps, h.writes, h.sight = make([]track, len(h.pools)), make([]track, len(h.pools)), make([]sight, len(h.pools))
	h.watches = map[*host]*watch{}
	if !spec.Off {
		h.chassis, h.wantOn = true, true
	}
	if h.chassis && !spec.Dead {
		h.kernel, h.agent, h.bootNo = true, true, 1
		h.startInstances(spec.Instances)
	}
	return h
}

func (h *host) startInstances(n int) {
	for k := 1; k <= n; k++ {
		h.runs = append(h.runs, fmt.Sprintf("i-%s.%d-%d", h.ID, h.bootNo, k))
	}
}

func (h *host) boot() string { return fmt.Sprintf("%s.b%d", h.ID, h.bootNo) }

// lives: its kernel runs, or may go on to.
func (h *host) lives() bool { return h.kernel }

// works: its kernel runs.
func (h *host) works() bool { return h.kernel && !h.frozen }

// healthy: nothing is wrong with it that anybody could see.
func (h *host) healthy() bool {
	if !h.works() || !h.agent || !h.hv || h.deaf || !h.onNet(mgmt) {
		return false
	}
	return !slices.ContainsFunc(h.pools, func(p string) bool { return h.poolFor(p) != poolOK })
}

// switchOn finds the switch of a network.
func (h *host) switchOn(n network) *netSwitch {
	s := h.rack.spec
	return h.f.switches[[...]string{s.Switch, s.Storage, s.OOB}[n]]
}

// onNet: it reaches everybody on the network who is on it.
func (h *host) onNet(n network) bool {
	return !h.cut[n] && h.f.nets[n] && h.switchOn(n).state == switchUp
}

// reaches: two hosts hear each other on a network.
func (h *host) reaches(o *host, n network) bool {
	a, b := h.switchOn(n), o.switchOn(n)
	if h.cut[n] || o.cut[n] || a.state == switchDown || b.state == switchDown {
		return false
	}
	return a == b || a.state == switchUp && b.state == switchUp && h.f.nets[n]
}

// poolFor is how a pool behaves for this host.
func (h *host) poolFor(p string) poolMode {
	switch {
	case !h.onNet(storage):
		return poolHung
	case h.badPool[p] != "":
		return h.badPool[p]
	}
	return h.f.pools[p].mode
}

// refresh makes what happens by itself on a host equal to what is true of it, and tells
// its owner's timers that the world has moved.
func (f *Fleet) refresh(h *host) {
	if h.owner != nil {
		h.owner.renew()
	}
	every := h.stampsEvery()
	for i, p := range h.pools {
		mode := h.poolFor(p)
		pace := func(d time.Duration) time.Duration {
			if mode == poolSlow {
				return max(d, slowWrite)
			}
			return d
		}
		takes := mode == poolOK || mode == poolSlow
		h.stamps[i].set(h.works() && h.agent && takes, f.now, pace(every))
		h.writes[i].set(h.works() && len(h.runs) > 0 && !h.quiet && takes, f.now, pace(time.Second))
		switch _, bad := h.badFrom[p]; {
		case mode == poolOK:
			delete(h.badFrom, p)
		case !bad:
			h.badFrom[p] = f.now
			if mode == poolHung || mode == poolSlow {
				f.after(hungAfter, func() { h.stir() })
			}
		}
	}
	h.notice()
	h.relink()
	h.stir()
}

func (f *Fleet) refreshAll() {
	for _, h := range f.hosts {
		f.refresh(h)
	}
}

// stir: something about the host changed; a quiet owner looks at it again.
func (h *host) stir() {
	if o := h.owner; o != nil {
		o.stir()
	}
}

// report is what its agent says of it now.
func (h *host) report() *agentpb.Report {
	r := &agentpb.Report{HypervisorOk: h.hv, Instances: h.instances()}
	if !h.hv {
		r.HypervisorDetail = "it hangs"
	}
	for _, p := range h.pools {
		x := &agentpb.PoolReport{Id: p, State: agentpb.PoolReport_OK}
		switch mode := h.poolFor(p); {
		case mode == poolHung && h.f.now.Sub(h.badFrom[p]) >= hungAfter:
			x.State = agentpb.PoolReport_HUNG
		case mode == poolFailed, mode == poolReadOnly:
			x.State, x.Detail = agentpb.PoolReport_FAILED, "write stamp: "+map[poolMode]string{poolFailed: "i/o error", poolReadOnly: "read-only file system"}[mode]
		case mode == poolSlow && h.f.now.Sub(h.badFrom[p]) >= hungAfter:
			x.State, x.Detail = agentpb.PoolReport_HUNG, "a write takes longer than its limit"
		}
		r.Pools = append(r.Pools, x)
	}
	return r
}

// instances are what runs there, each with a disk on the first pool.
func (h *host) instances() []*agentpb.Instance {
	out := make([]*agentpb.Instance, len(h.runs))
	for i, id := range h.runs {
		out[i] = &agentpb.Instance{Id: id}
		out[i].Disks = []*agentpb.Disk{{Pool: h.home(), Path: id + ".img"}}
	}
	return out
}

// home is the pool of its instances: the first shared one, or its own.
func (h *host) home() string {
	if len(h.pools) > 0 {
		return h.pools[0]
	}
	return "local"
}

func (h *host) probes() []string {
	if h.NoProbes {
		return nil
	}
	return []string{"icmp://" + h.ID, "icmp://" + h.ID + ".st#storage"}
}

// die ends what runs: the present boot is over.
func (h *host) die() {
	h.touched = h.f.now
	h.kernel, h.frozen, h.agent = false, false, false
	h.runs = nil
	h.bootSeq++
	h.f.refresh(h)
}

// startBoot boots the host, unless it cannot or something comes between.
func (h *host) startBoot() {
	h.bootSeq++
	seq := h.bootSeq
	h.f.after(h.Host.boot+h.f.jitter(2*time.Second), func() {
		if h.bootSeq != seq || !h.chassis || !h.fed || !h.boots {
			return
		}
		h.kernel, h.frozen, h.agent, h.hv = true, false, true, true
		h.bootNo++
		h.f.log.world(h.f.now, h.ID, "has booted: boot "+h.boot())
		h.f.refresh(h)
	})
}

// setChassis switches the chassis and says so.
func (h *host) setChassis(on bool) {
	if h.chassis == on || on && !h.fed {
		return
	}
	h.chassis, h.wantOn = on, on
	if on {
		h.startBoot()
		h.f.refresh(h)
		return
	}
	h.die()
}

// refeed follows mains and outlet: without power nothing lives, and when it is back the
// BMC comes first and the chassis some seconds later, reading OFF in between.
func (h *host) refeed() {
	fed := h.rack.mains && h.pdu.alive && h.outlet
	if fed == h.fed {
		return
	}
	h.fed = fed
	if !fed {
		h.chassis = false
		h.die()
		return
	}
	h.bmc.upAt = h.f.now.Add(bmcBoots)
	h.f.refresh(h)
	h.f.after(bmcBoots, func() { h.f.refresh(h) })
	h.f.after(chassisBack+h.f.jitter(5*time.Second), func() {
		if h.fed && h.wantOn && !h.chassis {
			h.setChassis(true)
		}
	})
}
