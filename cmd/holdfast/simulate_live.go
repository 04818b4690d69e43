// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/holdfast-ha/holdfast/sim/fleet"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// maxHostSettings is up to how many hosts each one's own settings are read: they cost a
// request a host.
const maxHostSettings = 200

// liveTopology reads the fleet through the API and makes the same one to simulate. Notes
// say what could not be carried over. It changes nothing.
func liveTopology(ctx context.Context, api *v1.Client) (fleet.Topology, []string, error) {
	t := fleet.Topology{Racks: map[string]fleet.Rack{}, Settings: map[string]map[string]string{}, Levels: map[string]fleet.Level{}, Budgets: map[string]fleet.Budget{}}
	var notes []string
	hosts, err := api.Hosts(ctx, v1.HostQuery{})
	if err != nil {
		return t, nil, err
	}
	scopes := []string{"global"}
	for _, h := range hosts {
		x, r, note := liveHost(h)
		t.Hosts = append(t.Hosts, x)
		if have := t.Racks[x.Rack]; have == (fleet.Rack{}) || r == (fleet.Rack{}) {
			t.Racks[x.Rack] = cmp.Or(have, r)
		}
		if note != "" {
			notes = append(notes, note)
		}
		if len(hosts) <= maxHostSettings {
			scopes = append(scopes, "host/"+h.Spec.ID)
		}
	}
	if len(hosts) > maxHostSettings {
		notes = append(notes, fmt.Sprintf("%d hosts: settings of single hosts are left out", len(hosts)))
	}
	parts, err := api.Partitions(ctx)
	if err != nil {
		return t, notes, err
	}
	for _, p := range parts {
		t.Levels[p.Spec.Path] = fleet.Level{Disabled: p.Spec.Disabled, HADisabled: p.Spec.HADisabled}
		if depth := strings.Count(p.Spec.Path, "/"); depth < 3 {
			scopes = append(scopes, [...]string{"zone/", "pod/", "cluster/"}[depth]+p.Spec.Path)
		}
		if b := p.Budget; b != nil {
			t.Budgets[b.Scope] = fleet.Budget{Used: b.Used, Latched: b.Latched}
		}
	}
	for _, scope := range scopes {
		if err := liveSettings(ctx, api, scope, t.Settings); err != nil {
			return t, notes, err
		}
	}
	workers, err := api.Workers(ctx)
	if err != nil {
		return t, notes, err
	}
	for _, w := range workers {
		if w.State == "ready" {
			t.Workers = append(t.Workers, w.ID)
		}
	}
	slices.Sort(t.Workers)
	t, err = t.Filled()
	return t, notes, err
}

// liveSettings keeps what is set at this very scope.
func liveSettings(ctx context.Context, api *v1.Client, scope string, into map[string]map[string]string) error {
	all, err := api.Settings(ctx, scope)
	if err != nil {
		return err
	}
	for _, s := range all {
		if s.Origin != scope {
			continue
		}
		if into[scope] == nil {
			into[scope] = map[string]string{}
		}
		into[scope][s.Name] = s.Value
	}
	return nil
}

// liveHost is one host as the simulation begins with it: what is on record of it, as if
// it were true.
func liveHost(h v1.Host) (x fleet.Host, r fleet.Rack, note string) {
	spec, st := h.Spec, h.Status
	x = fleet.Host{
		ID: spec.ID, Partition: spec.Partition, Rack: spec.Labels["rack"], Pools: spec.Pools, NoProbes: len(spec.Probes) == 0,
		Instances: len(st.Instances), Maintenance: spec.Maintenance, HADisabled: spec.HADisabled, Disabled: spec.Disabled,
	}
	if x.Rack == "" {
		x.Rack = "of-" + spec.ID // shares nothing with anybody, as far as is known
	}
	if len(x.Pools) == 0 {
		x.Pools = []string{"none"}
	}
	if x.Instances == 0 {
		x.Instances = -1
	}
	x.Quiet = x.Instances > 0 && !slices.Contains(st.Witnessed, "disks") && len(st.Witnessed) > 0
	for _, d := range spec.Power {
		kind := "bmc"
		if d.Driver == "pdu" || d.Driver == "manual" {
			kind = d.Driver
		}
		if !slices.Contains(x.Power, kind) {
			x.Power = append(x.Power, kind)
		}
	}
	if len(x.Power) == 0 {
		x.Power = []string{"none"}
	}
	r = fleet.Rack{Switch: first(spec.Labels["switch"]), PDU: first(spec.Labels["pdu"])}
	switch st.State {
	case "FENCED":
		x.Off = true
		note = fmt.Sprintf("%s is FENCED: it begins switched off", spec.ID)
	case "SUSPECT", "CHECKING", "DEGRADED", "RECOVERING", "FENCING", "FAILED":
		x.Dead = true
		note = fmt.Sprintf("%s is %s: it begins dead, its power on", spec.ID, st.State)
	default:
		x.Off = st.Power == "OFF"
	}
	if spec.Provider != "" && spec.Provider != "kvm" {
		note = strings.TrimPrefix(note+fmt.Sprintf("; %s is of provider %s: it is simulated as a KVM host, what its scripts would say is not known", spec.ID, spec.Provider), "; ")
	}
	return x, r, note
}

// first of several values of a label.
func first(values string) string {
	one, _, _ := strings.Cut(values, ",")
	return strings.TrimSpace(one)
}

func writeYAML(w io.Writer, v any) error {
	b, err := yaml.Marshal(v)
	if err == nil {
		_, err = w.Write(b)
	}
	return err
}
