// SPDX-License-Identifier: Apache-2.0

package apitest

import (
	"time"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// at is a time in the first minutes of the fleet.
func at(seconds int) time.Time { return Start.Add(time.Duration(seconds) * time.Second) }

var guards = []v1.GuardAnswer{
	{Guard: "claim", Verdict: "allow", Reason: "slot 17 is held for certain"},
	{Guard: "armed", Verdict: "hold", Reason: "cluster z1/p1/c1 is disarmed", Clears: "holdfast ha arm cluster/z1/p1/c1"},
	{Guard: "budget", Verdict: "allow", Reason: "a slot is left", Value: "1", Limit: "3"},
}

var ledger = []v1.Entry{
	{At: at(180), What: "suspect", Text: "3 pings missed, power reads ON"},
	{At: at(190), What: "checked", Text: "idle by h-1 and h-10: stamp and disks stood still for 6s"},
	{At: at(190), What: "held", Text: "guard armed holds"},
}

var settingNames = []string{"agent.ping.interval", "ha.policy", "preset"}

// NewFleet is a fleet of four hosts: one well, one suspect and held, one fenced, one
// outside HA.
func NewFleet() *Fleet {
	device := v1.Device{Name: "bmc", Driver: "ipmi", Address: "10.0.3.1:623", User: "holdfast", Secret: "file:/secrets/h-1", Identity: v1.Identity{SystemUUID: "4c4c4544"}}
	reading := func(state string) []v1.DeviceStatus {
		return []v1.DeviceStatus{{Name: "bmc", Driver: "ipmi", State: state, Read: at(290), Tested: at(10), TestOK: true}}
	}
	f := &Fleet{
		AreaL: areas(), BudgetMap: budgets(),
		Profile:  map[string]string{"device.bmc.driver": "ipmi"},
		Revision: 100, changed: make(chan struct{}), Elsewhere: map[string]string{},
		HostMap: map[string]v1.Host{
			"h-1": {Revision: 11, Spec: v1.HostSpec{V: 1, ID: "h-1", Partition: "z1/p1/c1", Provider: "kvm", Labels: map[string]string{"rack": "7"}, Pools: []string{"pool-a"}, Power: []v1.Device{device}},
				Status: v1.HostStatus{State: "AVAILABLE", Since: at(60), Reason: "its health check passes", Power: "ON", PowerSince: at(5), Devices: reading("ON"), Boot: "b-1", Linked: v1.LinkedYes, LastPing: at(298), Owner: "w-1", Epoch: "1/77", Slot: 17, Instances: []string{"vm-1", "vm-2"}}},
			"h-2": {Revision: 12, Spec: v1.HostSpec{V: 1, ID: "h-2", Partition: "z1/p1/c1", Provider: "kvm", Labels: map[string]string{"rack": "8"}},
				Status: v1.HostStatus{State: "SUSPECT", Since: at(180), Reason: "3 pings missed", Power: "ON", Devices: reading("ON"), Boot: "b-2", Owner: "w-1", Epoch: "1/77", Slot: 17, Incident: "i-2", Instances: []string{"vm-3"},
					Holds: []v1.Hold{{By: "armed", Reason: "cluster z1/p1/c1 is disarmed", Clears: "holdfast ha arm cluster/z1/p1/c1", Since: at(190)}}}},
			"h-3": {Revision: 13, Spec: v1.HostSpec{V: 1, ID: "h-3", Partition: "z1/p1/c2", Provider: "kvm", Labels: map[string]string{"rack": "7"}},
				Status: v1.HostStatus{State: "FENCED", Since: at(120), Reason: "settled OFF is on record", Power: "OFF", Devices: reading("OFF"), Boot: "b-3", Owner: "w-2", Epoch: "1/78", Slot: 18,
					Proof: &v1.Proof{Boot: "b-3", Assurance: "A3", How: "bmc read OFF 3 times over 6s", At: at(120)}}},
			"h-10": {Revision: 14, Spec: v1.HostSpec{V: 1, ID: "h-10", Partition: "z2", Provider: "kvm"},
				Status: v1.HostStatus{State: "NONE", Since: at(5), Reason: "HA is disabled in zone z2", Power: "UNKNOWN", Owner: "w-2", Epoch: "1/79", Slot: 19}},
		},
		PartMap: map[string]v1.Partition{
			"z1": {Revision: 21, Spec: v1.PartitionSpec{V: 1, Path: "z1"}, State: "ACTIVE", Since: at(30), Reason: "enabled", Hosts: 3, States: map[string]int{"AVAILABLE": 1, "SUSPECT": 1, "FENCED": 1}, Owner: "w-1"},
			"z1/p1/c1": {Revision: 22, Spec: v1.PartitionSpec{V: 1, Path: "z1/p1/c1"}, State: "ACTIVE", Since: at(30), Reason: "2 hosts are eligible", Hosts: 2, States: map[string]int{"AVAILABLE": 1, "SUSPECT": 1}, Owner: "w-1",
				Disarmed: []string{"cluster/z1/p1/c1"}, Budget: &v1.Budget{Scope: "cluster/z1/p1/c1", Used: 1, Limit: 3, Window: "1h"}},
		},
		WorkerL: []v1.Worker{
			{ID: "w-1", Boot: "wb-1", API: "10.0.0.1:7080", Agents: "10.0.0.1:7081", Zone: "z1", Weight: 1, State: "ready", Since: at(0), Started: at(0), Version: "1.0", Slots: 512, Hosts: 2, Answers: v1.AnswersYes, Links: new(2), Standby: new(1), LeaseLeft: "4.2s", Keys: []string{NewestKey, "k1"}},
			{ID: "w-2", Boot: "wb-2", API: "10.0.0.2:7080", Agents: "10.0.0.2:7081", Zone: "z1", Weight: 1, State: "ready", Since: at(1), Started: at(1), Version: "1.0", Slots: 512, Hosts: 2, Answers: v1.AnswersUnknown},
		},
		PoolL:     []v1.Pool{{V: 1, ID: "p-1", Type: "nfs", Role: "primary", Revision: 31}},
		VolumeL:   []v1.Volume{{V: 1, ID: "v-1", Place: v1.Place{Pool: "p-1", Path: "v-1.raw"}, Format: "raw", Size: 1 << 30, State: "ready", Revision: 32}},
		TemplateL: []v1.Template{{V: 1, ID: "t-1", Format: "raw", Size: 1 << 30, Copies: []v1.Place{{Pool: "p-1", Path: "t-1.raw"}}, Revision: 33}},
		InstanceL: []v1.Instance{{V: 1, ID: "i-1", Host: "h-1", MemoryMiB: 64, CPUs: 1, Volumes: []string{"v-1"}, State: "running", Revision: 34}},
		CommandL:  []v1.Command{{ID: "c-1", Kind: "copy", Host: "h-1", State: "PROCESSING", Since: Start, Created: Start, Reason: "copying", By: "ann", Revision: 35}},
		IncL: []v1.Incident{
			{ID: "i-2", Host: "h-2", Opened: at(180), State: "SUSPECT", Cause: "3 pings missed", Ledger: ledger, Guards: guards},
			{ID: "i-1", Host: "h-3", Opened: at(60), Ended: at(120), State: "FENCED", Cause: "3 pings missed", Outcome: "fenced with A3"},
		},
		EventL: []v1.Event{
			{ID: "e-1", Revision: 90, At: at(120), Type: "fenced", Severity: "page", Host: "h-3", Partition: "z1/p1/c2", Worker: "w-2", Incident: "i-1", Message: "FENCING → FENCED: settled OFF, A3"},
			{ID: "e-2", Revision: 95, At: at(180), Type: "suspect", Severity: "warning", Host: "h-2", Partition: "z1/p1/c1", Worker: "w-1", Incident: "i-2", Message: "AVAILABLE → SUSPECT: 3 pings missed"},
			{ID: "e-3", Revision: 95, At: at(180), Type: "worker-joined", Severity: "info", Worker: "w-2", Message: "worker w-2 joined"},
		},
		SecretMap: map[string]v1.SecretStatus{
			"h-2/bmc": {Host: "h-2", Device: "bmc", Ref: v1.SecretSealed, Set: true, Key: "k1", Readable: "yes", At: at(20), By: "bob@10.0.0.9", Tested: true, Revision: 41},
			"h-3/bmc": {Host: "h-3", Device: "bmc", Ref: v1.SecretSealed, Set: true, Key: NewestKey, Newest: true, Readable: "yes", At: at(30), By: "bob@10.0.0.9", Revision: 42},
		},
		Set: map[string]v1.Setting{
			"default agent.ping.interval": {Name: "agent.ping.interval", Value: "5s", Origin: "default", Default: "5s", Allowed: "1s to 60s", Effect: "live", Doc: "time between two pings"},
			"default ha.policy":           {Name: "ha.policy", Value: "recover", Origin: "default", Default: "recover", Allowed: "observe, recover, fence", Effect: "live", Doc: "what HA may do"},
			"default preset":              {Name: "preset", Value: "default", Origin: "default", Default: "default", Allowed: "seed, default, fast", Effect: "live", Doc: "all timings at once"},
		},
	}
	return f
}
