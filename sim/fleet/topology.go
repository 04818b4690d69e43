// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/holdfast-ha/holdfast/coordinator/settings"
)

// Topology is what a simulated fleet consists of. The zero values of optional fields are
// what most fleets have.
type Topology struct {
	Seed     uint64                       `json:"seed,omitempty"`
	Workers  []string                     `json:"workers,omitempty"`  // default w1, w2
	Settings map[string]map[string]string `json:"settings,omitempty"` // scope, name, value
	Racks    map[string]Rack              `json:"racks,omitempty"`    // what is not said has a default
	Levels   map[string]Level             `json:"levels,omitempty"`   // switches of zones, pods and clusters, by path
	Budgets  map[string]Budget            `json:"budgets,omitempty"`  // power-downs of the last hour, by scope
	Clusters []Cluster                    `json:"clusters,omitempty"` // many hosts alike
	Hosts    []Host                       `json:"hosts,omitempty"`
}

// Level says what is switched off at a zone, pod or cluster.
type Level struct {
	Disabled   bool `json:"disabled,omitempty"`
	HADisabled bool `json:"haDisabled,omitempty"`
}

// Budget is what was spent of one before the simulation begins.
type Budget struct {
	Used    int  `json:"used,omitempty"`
	Latched bool `json:"latched,omitempty"`
}

// Rack names what the hosts of a rack share. One mains feeds it.
type Rack struct {
	Switch  string `json:"switch,omitempty"`  // management network; default sw-<rack>
	Storage string `json:"storage,omitempty"` // storage network; default st-<rack>
	OOB     string `json:"oob,omitempty"`     // network of the BMCs; default oob-<rack>
	PDU     string `json:"pdu,omitempty"`     // default pdu-<rack>
}

// Cluster is so many hosts alike, spread over racks in turn.
type Cluster struct {
	Path  string   `json:"path"` // zone/pod/cluster
	Hosts int      `json:"hosts"`
	Name  string   `json:"name,omitempty"`  // what hosts are called before their number; default h
	Racks []string `json:"racks,omitempty"` // default r1
	Like  Host     `json:"like,omitempty"`  // what else they have in common
}

// Host is one hypervisor.
type Host struct {
	ID        string   `json:"id,omitempty"`
	Partition string   `json:"partition,omitempty"`
	Rack      string   `json:"rack,omitempty"`
	Pools     []string `json:"pools,omitempty"`     // shared pools; default nfs1; "none" for none
	Instances int      `json:"instances,omitempty"` // default 2; -1 for none
	Quiet     bool     `json:"quiet,omitempty"`     // its instances write nothing
	NoProbes  bool     `json:"noProbes,omitempty"`  // its kernel answers no probe
	Power     []string `json:"power,omitempty"`     // bmc, pdu, manual, by level; default bmc; "none" for none
	Boot      string   `json:"boot,omitempty"`      // how long it boots; default 60s

	Maintenance bool `json:"maintenance,omitempty"`
	HADisabled  bool `json:"haDisabled,omitempty"`
	Disabled    bool `json:"disabled,omitempty"`
	Off         bool `json:"switchedOff,omitempty"` // switched off when the simulation begins
	Dead        bool `json:"dead,omitempty"`        // switched on, and nothing runs

	boot time.Duration
}

// ParseTopology reads YAML or JSON and returns the topology with all that has a default
// filled in. Errors name the field, its value and what is allowed.
func ParseTopology(text []byte) (Topology, error) {
	var t Topology
	if err := yaml.UnmarshalStrict(text, &t); err != nil {
		return Topology{}, fmt.Errorf("read topology: %w", err)
	}
	return t.Filled()
}

// Filled is the topology with every host by itself and every default said. It is
// idempotent.
func (t Topology) Filled() (Topology, error) {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("topology: "+format, args...)) }
	if len(t.Workers) == 0 {
		t.Workers = []string{"w1", "w2"}
	}
	hosts := slices.Clone(t.Hosts)
	count := map[string]int{}
	for i, c := range t.Clusters {
		if strings.Count(c.Path, "/") != 2 {
			bad("clusters[%d].path: %q, allowed is zone/pod/cluster", i, c.Path)
		}
		if c.Hosts < 1 || c.Hosts > 100000 {
			bad("clusters[%d].hosts: %d, allowed are 1 to 100000", i, c.Hosts)
			continue
		}
		name, racks := c.Name, c.Racks
		if name == "" {
			name = "h"
		}
		if len(racks) == 0 {
			racks = []string{"r1"}
		}
		for k := range c.Hosts {
			h := c.Like
			count[name]++
			h.ID, h.Partition, h.Rack = fmt.Sprintf("%s%d", name, count[name]), c.Path, racks[k%len(racks)]
			hosts = append(hosts, h)
		}
	}
	if len(hosts) == 0 {
		bad("hosts: none, allowed is at least one, under hosts or clusters")
	}
	t.Hosts, t.Clusters, t.Racks = hosts, nil, maps.Clone(t.Racks)
	if t.Racks == nil {
		t.Racks = map[string]Rack{}
	}
	seen := map[string]bool{}
	for i := range t.Hosts {
		h := &t.Hosts[i]
		if h.ID == "" || seen[h.ID] {
			bad("hosts[%d].id: %q, allowed is a name that no other host has", i, h.ID)
		}
		seen[h.ID] = true
		errs = append(errs, h.fill(i)...)
		r := t.Racks[h.Rack]
		for _, f := range []struct {
			name *string
			kind string
		}{{&r.Switch, "sw"}, {&r.Storage, "st"}, {&r.OOB, "oob"}, {&r.PDU, "pdu"}} {
			if *f.name == "" {
				*f.name = f.kind + "-" + h.Rack
			}
		}
		t.Racks[h.Rack] = r
	}
	for scope, values := range t.Settings {
		for name, value := range values {
			if err := checkSetting(scope, name, value); err != nil {
				bad("settings: %w", err)
			}
		}
	}
	return t, errors.Join(errs...)
}

func (h *Host) fill(i int) (errs []error) {
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("topology: hosts[%d] (%s): "+format, append([]any{i, h.ID}, args...)...))
	}
	if h.Partition == "" {
		h.Partition = "z1/p1/c1"
	}
	if h.Rack == "" {
		h.Rack = "r1"
	}
	if len(h.Pools) == 0 {
		h.Pools = []string{"nfs1"}
	}
	if h.Instances == 0 {
		h.Instances = 2
	}
	if len(h.Power) == 0 {
		h.Power = []string{"bmc"}
	}
	for _, d := range h.Power {
		if !slices.Contains([]string{"bmc", "pdu", "manual", "none"}, d) {
			bad("power: %q, allowed are bmc, pdu, manual, none", d)
		}
	}
	if h.Boot == "" {
		h.Boot = "60s"
	}
	var err error
	if h.boot, err = time.ParseDuration(h.Boot); err != nil || h.boot < time.Second {
		bad("boot: %q, allowed is a duration of 1s or more", h.Boot)
	}
	return errs
}

func (h Host) pools() []string   { return slices.DeleteFunc(slices.Clone(h.Pools), isNone) }
func (h Host) devices() []string { return slices.DeleteFunc(slices.Clone(h.Power), isNone) }

func isNone(s string) bool { return s == "none" }

// checkSetting checks one value alone.
func checkSetting(scope, name, value string) error {
	d, ok := settings.Lookup(name)
	if !ok {
		return fmt.Errorf("setting %q: there is no such setting", name)
	}
	if !d.AllowedAt(scope) {
		return fmt.Errorf("setting %s at %q: allowed scopes are %s", name, scope, strings.Join(d.Scopes, ", "))
	}
	_, err := d.Parse(value)
	return err
}
