// SPDX-License-Identifier: Apache-2.0

package settings

import "fmt"

// Preset is the setting that sets a whole column at its scope.
const Preset = "preset"

// Names of presets.
const (
	PresetDefault = "default"
	PresetSeed    = "seed"
	PresetFast    = "fast"
)

// Where a setting may be set.
var (
	everywhere = Scopes
	partitions = Scopes[:4]
	pods       = Scopes[:3]
	zones      = Scopes[:2]
	global     = Scopes[:1]
)

func fast(v string) map[string]string { return map[string]string{PresetFast: v} }

func seedFast(s, f string) map[string]string {
	return map[string]string{PresetSeed: s, PresetFast: f}
}

// All is the catalogue, in the order in which it is shown.
var All = []Def{
	{Preset, Enum, PresetDefault, "", "", []string{PresetDefault, PresetSeed, PresetFast}, everywhere, nil, Live,
		"Sets the whole column of timing figures at this scope; explicit values at this scope or a narrower one win. **`fast` decides about 3 s after a host falls silent**: read [what that means](ha.md#preset-fast-decides-in-three-seconds) before you set it."},

	{"ha.policy", Enum, "recover", "", "", []string{"observe", "recover", "fence"}, everywhere, nil, Live,
		"What may be done about a host that is idle: nothing (everything is decided and shown, no packet is sent), switch it off and on again, or switch it off."},
	{"ha.armed", Bool, "true", "", "", nil, everywhere, nil, Live,
		"Whether automation may act; false at any scope disarms all below it (`holdfast ha disarm`)."},
	{"ha.proof.min", Assurance, "A3", "", "", nil, everywhere, nil, NextAction,
		"How strong a proof of OFF must be before instances may run elsewhere."},
	{"ha.kvm.local", Bool, "false", "", "", nil, everywhere, nil, Live,
		"Protect hosts that have local pools only; their instances return with the host, never elsewhere. Such a host needs a probe address on another network than management (icmp://10.1.0.7#storage)."},

	{"ha.exec.program", Path, "", "", "", nil, everywhere, nil, Live,
		"Program of provider exec, for hosts declared with it: it says whether a resource can be protected, is healthy, is active; as a power device of driver provider it fences and recovers too."},

	{"agent.ping.interval", Duration, "5s", "1s", "60s", nil, everywhere, seedFast("60s", "1s"), Live,
		"How often the agent pings its worker, or the program of provider exec is asked for a resource's health."},
	{"ha.health.failures", Int, "3", "2", "20", nil, everywhere, nil, Live,
		"Missed pings, or fails of the program of provider exec, in a row before a health check fails."},
	{"ha.health.timeout", Duration, "5s", "500ms", "60s", nil, everywhere, fast("1s"), Live,
		"How long an active probe of a host's control API may take."},

	{"ha.activity.interval.initial", Duration, "10s", "1s", "10m", nil, everywhere, fast("2s"), NextAction,
		"Time to the first activity check of an incident; it doubles from check to check."},
	{"ha.activity.interval.max", Duration, "250s", "1s", "1h", nil, everywhere, nil, NextAction,
		"Longest time between activity checks; never below the initial one."},
	{"ha.activity.first.at.once", Bool, "false", "", "", nil, everywhere, fast("true"), NextAction,
		"The first activity check of an incident does not wait for the initial interval."},
	{"ha.activity.memory", Bool, "false", "", "", nil, everywhere, fast("true"), Live,
		"Neighbours keep looking at healthy hosts, as often as these stamp, so that the first activity check of an incident need not wait for its window from the beginning."},
	{"ha.stamp.interval", Duration, "2s", "200ms", "60s", nil, everywhere, fast("500ms"), Live,
		"How often an agent writes its stamp to every shared pool."},
	{"ha.activity.window", Duration, "6s", "1s", "10m", nil, everywhere, fast("2s"), NextAction,
		"How far apart the two samples of an activity check are; at least twice the stamp interval and 1s."},
	{"ha.activity.timeout", Duration, "30s", "3s", "20m", nil, everywhere, fast("10s"), NextAction,
		"A slower activity check is abandoned and counts as unknown; at least the window and 2s."},
	{"ha.activity.attempts", Int, "5", "1", "100", nil, everywhere, nil, Live,
		"Unknown verdicts in a row before the host is held and somebody is told."},
	{"ha.activity.checkers", Int, "3", "1", "16", nil, everywhere, nil, NextAction,
		"Neighbours that are asked for one activity check."},
	{"ha.degraded.after", Int, "3", "1", "100", nil, everywhere, nil, Live,
		"Activity checks in a row that say active before a host is DEGRADED."},
	{"ha.baseline.interval", Duration, "60s", "1s", "1h", nil, everywhere, fast("15s"), Live,
		"How often a healthy host's disks and network are sampled, so that their later silence means something."},

	{"ha.recovery.attempts", Int, "2", "1", "10", nil, everywhere, nil, NextAction,
		"Power cycles before a host is fenced."},
	{"ha.recovery.wait", Duration, "600s", "10s", "2h", nil, everywhere, nil, NextAction,
		"How long the agent may take to come back after a power cycle."},
	{"ha.fence.level.timeout", Duration, "60s", "51s", "30m", nil, everywhere, nil, NextAction,
		"How long one level of the power ladder may take; at least the settle window and 45s in any case."},
	{"ha.fence.timeout", Duration, "300s", "51s", "2h", nil, everywhere, nil, NextAction,
		"How long proving OFF may take over all levels; never below the time of one."},
	{"ha.off.confirm.delay", Duration, "30s", "0s", "1h", nil, everywhere, fast("5s"), NextAction,
		"How long a host found OFF is left alone before that is confirmed: lets a manual restart pass."},
	{"ha.confirm.silence", Duration, "60s", "5s", "1h", nil, everywhere, fast("10s"), Live,
		"How long a host must have been silent before an operator's confirm-off counts."},
	{"ha.quiet.period", Duration, "180s", "0s", "1h", nil, everywhere, nil, NextAction,
		"How long a host may take to boot before a failed health check counts."},
	{"ha.suspect.read.interval", Duration, "10s", "1s", "5m", nil, everywhere, fast("2s"), Live,
		"How often the power of a held, suspect or unsupported host is read."},
	{"ha.repair.command", Path, "", "", "", nil, everywhere, nil, NextAction,
		"Program that is run for a suspect or degraded host before anything irreversible."},
	{"ha.repair.attempts", Int, "1", "0", "10", nil, everywhere, nil, NextAction,
		"How often the repair command is run for one incident."},

	{"power.packet.timeout", Duration, "2s", "200ms", "30s", nil, everywhere, nil, NextAction,
		"How long one packet to a power device waits for its answer."},
	{"power.status.deadline", Duration, "5s", "1s", "60s", nil, everywhere, nil, NextAction,
		"How long one reading may take; slow devices need 15s."},
	{"power.command.deadline", Duration, "15s", "2s", "2m", nil, everywhere, nil, NextAction,
		"How long one command may take, a new connection included; a later one is not sent any more."},
	{"power.verify.interval", Duration, "2s", "500ms", "30s", nil, everywhere, nil, NextAction,
		"Time between two readings while OFF is being proven."},
	{"power.settle.window", Duration, "6s", "6s", "10m", nil, everywhere, nil, NextAction,
		"OFF must be read over at least this long, with no ON in between."},
	{"power.settle.reads", Int, "3", "3", "100", nil, everywhere, nil, NextAction,
		"Authentic OFF readings needed at least."},
	{"power.off.repeat", Duration, "8s", "2s", "5m", nil, everywhere, nil, NextAction,
		"A device that still reads ON gets the next hard off not sooner than this."},
	{"power.off.max", Int, "3", "1", "10", nil, everywhere, nil, NextAction,
		"Hard offs that one device of a level gets at most."},
	{"power.off.to.on", Duration, "5s", "1s", "5m", nil, everywhere, nil, NextAction,
		"Pause between proven OFF and ON: capacitors."},
	{"power.on.deadline", Duration, "120s", "10s", "30m", nil, everywhere, nil, NextAction,
		"ON must be read this soon after it was sent; it is sent once more at half of it."},
	{"power.session.gap", Duration, "2s", "0s", "60s", nil, everywhere, nil, Live,
		"Time between two sessions with one device; fragile ones need 5s, 0s is none. Fencing does not wait for it."},
	{"power.sync.interval", Duration, "60s", "2s", "1h", nil, everywhere, fast("10s"), Live,
		"How often the power of a healthy host is read, give or take a tenth."},
	{"power.unknown.after", Int, "3", "1", "20", nil, everywhere, nil, Live,
		"Failed readings in a row before the power state is UNKNOWN; a refused log-in needs one."},
	{"power.unreachable.max", Duration, "5m", "1s", "1h", nil, everywhere, nil, Live,
		"Longest time between readings of a device that does not answer; while an incident is open it is read as often as others."},
	{"power.confirm.after", Duration, "2s", "500ms", "60s", nil, everywhere, nil, Live,
		"Time between the two equal readings that turn ON into OFF or back."},
	{"power.soft.grace", Duration, "180s", "10s", "1h", nil, everywhere, nil, NextAction,
		"How long an ordered soft shutdown may take before it has failed."},
	{"power.test.interval", Duration, "1h", "1m", "24h", nil, everywhere, nil, Live,
		"How often a power device is tested: log-in, status, identity."},
	{"power.test.maxage", Duration, "2h", "2m", "48h", nil, everywhere, nil, Live,
		"A host counts as protected while its last good power test is younger than this."},

	{"budget.host", Rate, "3/24h", "0/1m", "1000/168h", nil, everywhere, nil, Live,
		"Incidents with a power action of one host."},
	{"budget.cluster", Rate, "3/1h", "0/1m", "1000/168h", nil, partitions, nil, Live,
		"Incidents with a power action within one cluster; used up means stop and tell, until a human resets or grants more."},
	{"budget.pod", Rate, "6/1h", "0/1m", "1000/168h", nil, pods, nil, Live,
		"The same for one pod."},
	{"budget.zone", Rate, "20/1h", "0/1m", "1000/168h", nil, zones, nil, Live,
		"The same for one zone."},
	{"guard.unhealthy.share", Percent, "34%", "1%", "100%", nil, partitions, nil, Live,
		"From this share of unhealthy hosts on nothing is switched off; applies to clusters, pods and zones of three hosts and more."},
	{"guard.cause.labels", String, "rack,switch,pdu", "", "", nil, global, nil, Live,
		"Labels of hosts that name what they share and may lose together, separated by commas; a host with two of a kind names both, separated by commas. Shared pools count in any case."},
	{"guard.storm.cooldown", Duration, "10m", "0s", "24h", nil, partitions, nil, Live,
		"How long nothing is switched off after a storm of suspicions ended."},

	{"agent.hello.retry", Duration, "500ms", "100ms", "60s", nil, everywhere, nil, Live,
		"How soon an agent without a worker tries again."},
	{"agent.workers", String, "", "", "", nil, everywhere, nil, Live,
		"Workers an agent links to, by id, separated by commas; nothing means all that live."},
	{"agent.lb.algorithm", Enum, "ring", "", "", []string{"ring", "static", "roundrobin", "shuffle"}, everywhere, nil, Live,
		"How the list of workers is sorted for each agent."},
	{"agent.lb.check.interval", Duration, "60s", "0s", "24h", nil, everywhere, nil, Live,
		"How often an agent checks whether it is linked to the first worker of its list; 0s never."},
	{"agent.lb.membership.grace", Duration, "60s", "0s", "1h", nil, global, nil, Live,
		"A worker that is missing for less than this changes no list."},

	{"reconcile.enabled", Bool, "true", "", "", nil, everywhere, nil, Live,
		"Whether it is found out by itself what became of commands that were interrupted; false keeps their records and journals and judges nothing."},
	{"reconcile.interval", Duration, "60s", "1s", "1h", nil, everywhere, nil, Live,
		"How often an interrupted command is looked at that no event tells anything new of; the safety net, events are acted on at once."},
	{"reconcile.max.attempts", Int, "30", "1", "1000", nil, everywhere, nil, Live,
		"Looks at an interrupted command before an operator is asked; a look that its host did not answer is none."},
	{"reconcile.workers", Int, "100", "1", "10000", nil, global, nil, Live,
		"Commands that one worker looks at, or tidies up after, at the same time."},
	{"command.keep", Duration, "168h", "1m", "8760h", nil, everywhere, nil, Live,
		"How long the record of a command is kept after its end."},

	{"worker.activity.concurrency", Int, "50", "1", "10000", nil, global, nil, Live,
		"Activity checks that run at the same time on one worker."},
	{"worker.recovery.concurrency", Int, "5", "1", "1000", nil, global, nil, Live,
		"Power actions that run at the same time on one worker."},
	{"worker.power.rate", Rate, "20/1s", "1/1s", "10000/1m", nil, global, nil, Live,
		"Packets of power transactions that one worker sends; readings have their own cadence."},
	{"worker.warmup", Int, "3", "0", "100", nil, global, nil, NextAction,
		"Rounds of pings after its start in which a worker acts on no verdict of its own."},
	{"worker.rebalance.quiet", Duration, "10s", "0s", "10m", nil, global, fast("1s"), Live,
		"How long the membership of workers must not have changed before slots are moved for balance; a drain does not wait."},
	{"worker.rebalance.rate", Int, "20", "0", "10000", nil, global, nil, Live,
		"Slots a second that one worker hands over for balance or in a drain; 0 is no limit."},
	{"api.rate", Int, "200", "1", "10000", nil, global, nil, Live,
		"Requests a second that one token or certificate may send to one worker; four seconds' worth may come at once."},
	{"metrics.hosts", Bool, "false", "", "", nil, global, nil, Live,
		"Workers show one series per host, holdfast_host_info, beside the counts; ten thousand hosts are ten thousand series."},
	{"page.exec", Path, "", "", "", nil, global, nil, Live,
		"Program that is run for every event of severity page, with the event on standard input."},
	{"page.exec.timeout", Duration, "10s", "1s", "5m", nil, global, nil, Live,
		"How long that program may run."},
}

var byName = index(All)

// column reports whether presets set this setting.
func (d Def) column() bool { return len(d.Presets) > 0 }

// figure is the setting's value in a preset's column.
func (d Def) figure(preset string) string {
	if v, ok := d.Presets[preset]; ok {
		return v
	}
	return d.Default
}

// index makes the table of names and stops the program when the catalogue is broken.
func index(defs []Def) map[string]Def {
	m := make(map[string]Def, len(defs))
	for _, d := range defs {
		if _, double := m[d.Name]; double {
			panic(fmt.Sprintf("setting %s is defined twice", d.Name))
		}
		values := []string{d.Default}
		for _, v := range d.Presets {
			values = append(values, v)
		}
		for _, v := range values {
			if canon, err := d.Parse(v); err != nil || canon != v {
				panic(fmt.Sprintf("setting %s: figure %q: %v", d.Name, v, err))
			}
		}
		m[d.Name] = d
	}
	return m
}
