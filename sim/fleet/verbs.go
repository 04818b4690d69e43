// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// verb is one thing that a script can have happen. Prepare checks the words against the
// fleet and returns what to do when the time has come.
type verb struct {
	Usage, Doc  string
	least, most int // arguments; most -1: any number
	prepare     func(f *Fleet, args []string) (func(), error)
}

var verbs map[string]verb

func init() {
	verbs = map[string]verb{}
	for _, table := range []map[string]verb{hostVerbs, sharedVerbs, controlVerbs, operatorVerbs} {
		maps.Copy(verbs, table)
	}
}

func verbNames() []string { return slices.Sorted(maps.Keys(verbs)) }

// Verbs are the words of a script with what they take and do, for documentation.
func Verbs() (out [][3]string) {
	for _, name := range verbNames() {
		out = append(out, [3]string{name, verbs[name].Usage, verbs[name].Doc})
	}
	return out
}

// pick finds the hosts that a word means: all, h1,h2, rack=r1, cluster=z/p/c.
func (f *Fleet) pick(word string) ([]*host, error) {
	var out []*host
	key, value, by := strings.Cut(word, "=")
	for _, h := range f.hosts {
		switch {
		case word == "all", key == "rack" && h.Rack == value, key == "cluster" && h.Partition == value:
			out = append(out, h)
		}
	}
	if !by && word != "all" {
		for _, id := range strings.Split(word, ",") {
			h := f.byID[id]
			if h == nil {
				return nil, fmt.Errorf("host %q is not in the topology", id)
			}
			out = append(out, h)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%q means no host, allowed are all, h1,h2, rack=r1, cluster=z/p/c", word)
	}
	return out, nil
}

// each makes a verb that does something to each host that its first word means.
func each(usage, doc string, do func(h *host, args []string)) verb {
	n := 1 + len(strings.Fields(usage))
	return verb{Usage: strings.TrimSpace("<hosts> " + usage), Doc: doc, least: n, most: n, prepare: func(f *Fleet, args []string) (func(), error) {
		hosts, err := f.pick(args[0])
		return func() {
			for _, h := range hosts {
				h.touched = f.now
				do(h, args[1:])
				f.refresh(h)
			}
		}, err
	}}
}

// checked adds a check of the words after the first.
func (v verb) checked(check func(args []string) error) verb {
	prepare := v.prepare
	v.prepare = func(f *Fleet, args []string) (func(), error) {
		if err := check(args); err != nil {
			return nil, err
		}
		return prepare(f, args)
	}
	return v
}

func oneOf[T ~string](what string, k int, all ...T) func([]string) error {
	return func(args []string) error {
		if k < len(args) && !slices.Contains(all, T(args[k])) {
			return fmt.Errorf("%s %q, allowed are %v", what, args[k], all)
		}
		return nil
	}
}

var onOff = []string{"on", "off"}

const (
	rebootsAfter = 10 * time.Second // a panicking kernel
	pressed      = 5 * time.Second  // between a technician's off and on
)

// What happens to hosts and their management.
var hostVerbs = map[string]verb{
	"crash": each("", "the kernel dies and stays dead; power stays on", func(h *host, _ []string) { h.die() }),
	"panic": each("", "the kernel dies and boots again by itself", func(h *host, _ []string) {
		h.die()
		boot := h.bootSeq
		h.f.after(rebootsAfter, func() {
			if h.bootSeq == boot && h.chassis {
				h.startBoot()
			}
		})
	}),
	"hang": each("", "the whole machine stands still", func(h *host, _ []string) { h.frozen = h.kernel }),
	"thaw": each("", "a machine that stood still goes on, the same boot", func(h *host, _ []string) { h.frozen = false }),
	"dead": each("", "the kernel dies, and the host does not boot again until it is repaired", func(h *host, _ []string) {
		h.boots = false
		h.die()
	}),
	"unbootable":  each("", "the host runs, and would not boot again", func(h *host, _ []string) { h.boots = false }),
	"repair":      each("", "whatever was wrong with the machine and its BMC is mended; a dead one is switched on", func(h *host, _ []string) { h.repair() }),
	"agent-crash": each("", "the agent dies; what the host runs goes on", func(h *host, _ []string) { h.agent = false }),
	"agent-start": each("", "the agent is started", func(h *host, _ []string) { h.agent = h.kernel }),
	"sick":        each("", "the hypervisor does not answer its agent", func(h *host, _ []string) { h.hv = false }),
	"cure":        each("", "the hypervisor answers again", func(h *host, _ []string) { h.hv = true }),
	"quiet":       each("", "its instances write nothing", func(h *host, _ []string) { h.quiet = true }),
	"busy":        each("", "its instances write again", func(h *host, _ []string) { h.quiet = false }),
	"filter":      each("", "its kernel answers no probe", func(h *host, _ []string) { h.NoProbes = true }),
	"deaf":        each("", "its agent confirms no rejoin gate", func(h *host, _ []string) { h.deaf = true }),
	"hears":       each("", "its agent confirms gates again", func(h *host, _ []string) { h.deaf = false }),
	"off":         each("", "a technician presses the power button until it is off", func(h *host, _ []string) { h.setChassis(false) }),
	"on":          each("", "a technician switches it on", func(h *host, _ []string) { h.setChassis(true) }),
	"cycle": each("", "a technician switches it off and on again", func(h *host, _ []string) {
		h.setChassis(false)
		h.f.after(pressed, func() { h.setChassis(true) })
	}),
	"shutdown": each("", "its operating system shuts down in order and powers off", func(h *host, _ []string) { h.leave("host-shutdown", false) }),
	"reboot":   each("", "its operating system reboots in order", func(h *host, _ []string) { h.leave("host-reboot", true) }),
	"cut": each("<network>", "its cable to mgmt, storage or oob is cut", func(h *host, args []string) { h.cut[slices.Index(networkNames[:], args[0])] = true }).
		checked(oneOf("network", 1, networkNames[:]...)),
	"mend": each("<network>", "its cable to mgmt, storage or oob is mended", func(h *host, args []string) { h.cut[slices.Index(networkNames[:], args[0])] = false }).
		checked(oneOf("network", 1, networkNames[:]...)),
	"bmc": each("<how>", "its BMC is ok, dead, lies (does nothing), stuck-off (always reads OFF, does nothing), stuck-on, stale, slow, busy, full, auth, wrong, flaky or revives",
		func(h *host, args []string) { h.bmc.mode = bmcMode(args[0]) }).checked(oneOf("bmc", 1, bmcModes...)),
	"outlet": each("on|off", "its outlet of the PDU is switched by hand", func(h *host, args []string) {
		h.outlet = args[0] == "on"
		h.refeed()
	}).checked(oneOf("outlet", 1, onOff...)),
	"mount": each("<pool> <how>", "one pool is ok, hung, failed, readonly or slow for these hosts alone", func(h *host, args []string) {
		if h.badPool[args[0]] = poolMode(args[1]); args[1] == string(poolOK) {
			delete(h.badPool, args[0])
		}
	}).checked(oneOf("pool", 2, poolOK, poolHung, poolFailed, poolReadOnly, poolSlow)),
}

// repair mends the machine and its BMC, and switches it on if it is dead.
func (h *host) repair() {
	h.touched = h.f.now
	h.boots, h.hv, h.deaf, h.bmc.mode, h.frozen = true, true, false, bmcOK, false
	h.cut, h.badPool = [networks]bool{}, map[string]poolMode{}
	if h.outlet = true; h.kernel {
		h.agent = true
	}
	h.refeed()
	if h.fed && !h.kernel {
		if h.chassis {
			h.startBoot()
		}
		h.setChassis(true)
	}
	h.f.refresh(h)
}

// leave is an orderly shutdown: the agent says goodbye first.
func (h *host) leave(why string, again bool) {
	if !h.works() {
		return
	}
	if o := h.owner; o != nil && h.link.up && h.onNet(mgmt) {
		h.f.after(exchange, func() { o.goodbye(why) })
	}
	boot := h.bootNo
	h.f.after(soft, func() {
		switch {
		case h.bootNo != boot || !h.works():
		case again:
			h.die()
			h.startBoot()
		default:
			h.setChassis(false)
		}
	})
}

// What many hosts share.
var sharedVerbs = map[string]verb{
	"lose":    {"<rack|switch|uplink|pdu|net|pool> <name>", "a rack loses its mains, a switch dies or loses its uplink, a PDU dies with all it feeds, a whole network (mgmt, storage, oob) or a pool is gone", 2, 2, shared(false)},
	"restore": {"<rack|switch|uplink|pdu|net|pool> <name>", "the same is back", 2, 2, shared(true)},
	"pool": {"<name> <how>", "a pool is ok, hung, failed, readonly (serves reads, takes no writes) or slow for all", 2, 2, func(f *Fleet, args []string) (func(), error) {
		p := f.pools[args[0]]
		if p == nil {
			return nil, fmt.Errorf("pool %q is not in the topology", args[0])
		}
		return f.infra(func() { p.mode = poolMode(args[1]) }), oneOf("pool", 1, poolOK, poolHung, poolFailed, poolReadOnly, poolSlow)(args)
	}},
}

// infra does something that every host may feel.
func (f *Fleet) infra(do func()) func() {
	return func() {
		do()
		for _, h := range f.hosts {
			h.touched = f.now
		}
		f.refreshAll()
	}
}

func shared(back bool) func(*Fleet, []string) (func(), error) {
	return func(f *Fleet, args []string) (func(), error) {
		kind, name := args[0], args[1]
		unknown := fmt.Errorf("%s %q is not in the topology", kind, name)
		state := func(lost switchState) switchState {
			if back {
				return switchUp
			}
			return lost
		}
		switch kind {
		case "rack", "pdu":
			r, p := f.racks[name], f.pdus[name]
			if kind == "rack" && r == nil || kind == "pdu" && p == nil {
				return nil, unknown
			}
			return f.infra(func() {
				if kind == "rack" {
					r.mains = back
				} else {
					p.alive = back
				}
				for _, h := range f.hosts {
					h.refeed()
				}
			}), nil
		case "switch", "uplink":
			s := f.switches[name]
			if s == nil {
				return nil, unknown
			}
			lost := map[string]switchState{"switch": switchDown, "uplink": switchAlone}[kind]
			return f.infra(func() { s.state = state(lost) }), nil
		case "net":
			n := slices.Index(networkNames[:], name)
			if n < 0 {
				return nil, fmt.Errorf("network %q, allowed are %v", name, networkNames)
			}
			return f.infra(func() { f.nets[n] = back }), nil
		case "pool":
			p := f.pools[name]
			if p == nil {
				return nil, unknown
			}
			return f.infra(func() {
				if p.mode = poolHung; back {
					p.mode = poolOK
				}
			}), nil
		}
		return nil, fmt.Errorf("%q, allowed are rack, switch, uplink, pdu, net, pool", kind)
	}
}
