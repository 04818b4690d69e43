// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/holdfast-ha/holdfast/sim/fleet"
)

// scenario is one seed: a topology and what happens to it.
type scenario struct {
	seed  uint64
	top   fleet.Topology
	lines []string
}

// After the last fault everything shared is healed; dead machines must be finished by
// then, and after they were repaired too everybody must be well again.
const (
	faultsLast = 40 * time.Minute
	finishBy   = 90 * time.Minute
	wellBy     = 60 * time.Minute
)

func (s scenario) script() string {
	return strings.Join(s.lines, "\n") + fmt.Sprintf("\n%s heal\n%s end\n", faultsLast, faultsLast+finishBy)
}

// file is the scenario as a file of testdata.
func (s scenario) file() string {
	top, err := yaml.Marshal(s.top)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("# Seed %d.\ntopology\n%s----\n\nscript\n%s----\n", s.seed, top, s.script())
}

// newScenario makes a scenario of a seed: the same for the same seed.
func newScenario(seed uint64) scenario {
	g := generator{Rand: rand.New(rand.NewPCG(seed, 7)), top: fleet.Topology{Seed: seed}}
	g.topology()
	s := scenario{seed: seed, top: g.top}
	for range 1 + g.IntN(9) {
		s.lines = append(s.lines, g.happening()...)
	}
	m := generator{Rand: rand.New(rand.NewPCG(seed, 11)), top: g.top, hosts: g.hosts}
	s.lines = append(s.lines, m.forgetting()...)
	r := generator{Rand: rand.New(rand.NewPCG(seed, 13)), top: g.top, hosts: g.hosts}
	s.lines = append(s.lines, r.retuning()...)
	return s
}

// retuning is about settings that people change while things happen, often for what is in
// trouble just then, and about switches that go to and fro. Drawn apart, too.
func (g *generator) retuning() (out []string) {
	if g.IntN(3) > 0 {
		return nil
	}
	for range 1 + g.IntN(4) {
		scope := pick(g, "global", "global", "cluster/"+g.path(), "host/"+g.host())
		name := pick(g, "preset", "preset", "preset", "ha.policy", "agent.ping.interval", "ha.stamp.interval", "ha.health.failures", "ha.activity.window", "ha.activity.attempts",
			"ha.degraded.after", "ha.recovery.attempts", "ha.recovery.wait", "ha.quiet.period", "ha.off.confirm.delay", "ha.proof.min", "guard.unhealthy.share", "power.off.max", "ha.activity.memory")
		if name == "guard.unhealthy.share" && strings.HasPrefix(scope, "host/") {
			scope = "global"
		}
		value := pick(g, map[string][]string{
			"preset": {"default", "fast", "seed"}, "ha.policy": {"recover", "fence", "observe"}, "agent.ping.interval": {"1s", "5s", "60s"},
			"ha.stamp.interval": {"500ms", "2s", "10s", "60s"}, "ha.health.failures": {"2", "3", "10"}, "ha.activity.window": {"1s", "6s", "1m"}, "ha.activity.attempts": {"1", "5"},
			"ha.degraded.after": {"1", "10"}, "ha.recovery.attempts": {"1", "5"}, "ha.recovery.wait": {"10s", "10m"}, "ha.quiet.period": {"0s", "1m", "10m"},
			"ha.off.confirm.delay": {"0s", "30s", "5m"}, "ha.proof.min": {"A3", "A5"}, "guard.unhealthy.share": {"34%", "50%", "100%"}, "power.off.max": {"1", "3"}, "ha.activity.memory": {"true", "false"},
		}[name]...)
		out = append(out, fmt.Sprintf("%s set %s %s %s", g.when(), scope, name, value))
	}
	switch g.IntN(4) {
	case 0: // a switch to and fro, faster than anything can follow
		h := g.host()
		what := pick(g, "maintenance", "exclude", "disable")
		out = append(out, fmt.Sprintf("%s %s %s on", g.when(), what, h), fmt.Sprintf("+%s %s %s off", g.span(3*time.Second), what, h))
	case 1:
		p := g.path()
		out = append(out, fmt.Sprintf("%s ha %s off", g.when(), p), fmt.Sprintf("+%s ha %s on", g.span(3*time.Second), p))
	}
	return out
}

// forgetting is about what neighbours remember of each other: in some scenarios it is on
// beside the default preset, or off beside the fast one, or agents lose it at a bad moment.
// It is drawn apart, so that the rest of a seed stays what it was.
func (g *generator) forgetting() []string {
	switch g.IntN(6) {
	case 0:
		g.top.Settings["global"]["ha.activity.memory"] = "true"
	case 1:
		g.top.Settings["global"]["preset"] = "fast"
	case 2:
		g.top.Settings["global"]["ha.activity.memory"] = pick(g, "true", "false")
	default:
		return nil
	}
	victim, reader, when := g.host(), g.host(), g.span(20*time.Minute)
	back := when + g.span(8*time.Second) + 100*time.Millisecond
	at := func(d time.Duration, format string, args ...any) string {
		return d.String() + " " + fmt.Sprintf(format, args...)
	}
	dies := at(when+g.span(6*time.Second), "%s %s", pick(g, "crash", "crash", "hang", "panic", "agent-crash"), victim)
	switch g.IntN(5) {
	case 0: // a reader's agent is restarted
		return []string{at(when, "agent-crash %s", reader), at(back, "agent-start %s", reader), dies}
	case 1: // a reader stands still
		return []string{at(when, "hang %s", reader), at(back, "thaw %s", reader), dies}
	case 2: // a reader's pool does
		return []string{at(when, "mount %s nfs1 %s", reader, pick(g, "hung", "failed")), at(back, "mount %s nfs1 ok", reader), dies}
	case 3: // a short pause of the victim, or of what it hangs on
		return []string{at(when, "hang %s", victim), at(back, "thaw %s", victim)}
	}
	n := pick(g, "mgmt", "storage")
	return []string{at(when, "cut %s %s", victim, n), at(back, "mend %s %s", victim, n), dies}
}

type generator struct {
	*rand.Rand
	top   fleet.Topology
	hosts []fleet.Host
}

func pick[T any](g *generator, from ...T) T { return from[g.IntN(len(from))] }

func (g *generator) topology() {
	for i := range 1 + g.IntN(3) {
		g.top.Workers = append(g.top.Workers, fmt.Sprintf("w%d", i+1))
	}
	set := map[string]string{}
	if g.IntN(3) == 0 {
		set["preset"] = "fast"
	}
	if g.IntN(4) == 0 {
		set["ha.policy"] = pick(g, "fence", "fence", "observe")
	}
	if g.IntN(4) == 0 {
		set["guard.unhealthy.share"] = "100%"
	}
	g.top.Settings = map[string]map[string]string{"global": set}
	racks := []string{"r1", "r2", "r3", "r4"}[:1+g.IntN(4)]
	for i := range 1 + g.IntN(2) {
		c := fleet.Cluster{Path: fmt.Sprintf("z1/p%d/c%d", 1+g.IntN(2), i+1), Hosts: pick(g, 2, 2, 3, 4, 4, 5, 7), Racks: racks}
		c.Like = fleet.Host{Power: pick(g, []string{"bmc"}, []string{"bmc"}, []string{"bmc", "pdu"}, []string{"bmc", "manual"}, []string{"pdu"}), Quiet: g.IntN(6) == 0, NoProbes: g.IntN(8) == 0,
			Boot: pick(g, "20s", "60s", "100s")}
		if g.IntN(5) == 0 {
			c.Like.Pools = []string{"nfs1", "nfs2"}
		}
		g.top.Clusters = append(g.top.Clusters, c)
	}
	full, err := g.top.Filled()
	if err != nil {
		panic(err)
	}
	g.hosts = full.Hosts
}

func (g *generator) host() string   { return g.hosts[g.IntN(len(g.hosts))].ID }
func (g *generator) worker() string { return g.top.Workers[g.IntN(len(g.top.Workers))] }
func (g *generator) rack() string   { return g.hosts[g.IntN(len(g.hosts))].Rack }
func (g *generator) path() string   { return g.hosts[g.IntN(len(g.hosts))].Partition }

// span is a length up to most, more often short than long, in tenths of a second.
func (g *generator) span(most time.Duration) time.Duration {
	d := time.Duration(g.Float64() * g.Float64() * float64(most))
	return d.Round(100 * time.Millisecond)
}

// when is a moment of the first half hour, or of what happens to some host.
func (g *generator) when() string {
	switch g.IntN(4) {
	case 0:
		return fmt.Sprintf("%s=%s+%s", g.host(), pick(g, "SUSPECT", "CHECKING", "RECOVERING", "FENCING", "INITIALIZING", "FENCED", "DEGRADED", "AVAILABLE"), g.span(20*time.Second))
	case 1:
		return fmt.Sprintf("%s:%s+%s", g.host(), pick(g, "off", "off", "on"), g.span(15*time.Second))
	}
	return g.span(25 * time.Minute).String()
}

// happening is a fault or an order, often with what takes it back some time later.
func (g *generator) happening() []string {
	h, when := g.host(), g.when()
	if g.IntN(6) == 0 {
		h += "," + g.host()
	}
	one := func(format string, args ...any) []string { return []string{when + " " + fmt.Sprintf(format, args...)} }
	both := func(do, undo string) []string {
		out := one("%s", do)
		if g.IntN(4) > 0 {
			out = append(out, fmt.Sprintf("+%s %s", g.span(10*time.Minute)+time.Second, undo))
		}
		return out
	}
	switch g.IntN(32) {
	case 0, 1, 2:
		return one("crash %s", h)
	case 3:
		return one("dead %s", h)
	case 4:
		return one("panic %s", h)
	case 5, 6:
		return both("hang "+h, "thaw "+h)
	case 7:
		return both("agent-crash "+h, "agent-start "+h)
	case 8:
		return one("cycle %s", h)
	case 9:
		return both("off "+h, "on "+h)
	case 10:
		return one("%s %s", pick(g, "shutdown", "reboot"), h)
	case 11, 12:
		n := pick(g, "mgmt", "mgmt", "storage", "oob")
		return both(fmt.Sprintf("cut %s %s", h, n), fmt.Sprintf("mend %s %s", h, n))
	case 13, 14, 15:
		return both(fmt.Sprintf("bmc %s %s", h, pick(g, "dead", "lies", "stuck-on", "stale", "slow", "busy", "full", "auth", "wrong", "flaky", "revives", "stuck-off")), fmt.Sprintf("bmc %s ok", h))
	case 16:
		return both("outlet "+h+" off", "outlet "+h+" on")
	case 17:
		return both(fmt.Sprintf("mount %s nfs1 %s", h, pick(g, "hung", "failed", "readonly", "slow")), fmt.Sprintf("mount %s nfs1 ok", h))
	case 18:
		what := pick(g, "rack "+g.rack(), "pdu pdu-"+g.rack(), "switch sw-"+g.rack(), "uplink sw-"+g.rack(), "switch st-"+g.rack(), "switch oob-"+g.rack())
		return both("lose "+what, "restore "+what)
	case 19:
		n := pick(g, "mgmt", "storage", "oob")
		return both("lose net "+n, "restore net "+n)
	case 20:
		return both("pool nfs1 "+pick(g, "hung", "failed", "readonly", "slow"), "pool nfs1 ok")
	case 21, 22:
		w := pick(g, g.worker(), "owner:"+g.host())
		return []string{when + " " + pick(g, "kill ", "kill", "kill-box")[:4] + " " + w}
	case 23:
		w := g.worker()
		return both("kill-box "+w, "start "+w)
	case 24:
		return one("pause %s %s", pick(g, g.worker(), "owner:"+g.host()), g.span(30*time.Second)+time.Second)
	case 25:
		w := g.worker()
		return both(pick(g, "isolate ", "isolate ")+w, "unisolate "+w)
	case 26:
		w := g.worker()
		return both("lose-etcd "+w, "find-etcd "+w)
	case 27:
		return both("etcd down", "etcd up")
	case 28:
		return one("clock %s %s", g.worker(), pick(g, "1h", "-1h", "5m", "-20s", "40s"))
	case 29:
		what := pick(g, "maintenance", "exclude", "disable")
		return both(fmt.Sprintf("%s %s on", what, h), fmt.Sprintf("%s %s off", what, h))
	case 30:
		if g.IntN(2) == 0 {
			scope := pick(g, "global", "cluster/"+g.path(), "host/"+g.host())
			return both("disarm "+scope, "arm "+scope)
		}
		p := g.path()
		return both("ha "+p+" off", "ha "+p+" on")
	}
	return one("order %s %s", h, pick(g, "off", "on", "soft", "reset", "cycle", "retry", "confirm-off"))
}

// without is the scenario with one line less; what it undid stays.
func (s scenario) without(i int) scenario {
	s.lines = slices.Delete(slices.Clone(s.lines), i, i+1)
	return s
}
