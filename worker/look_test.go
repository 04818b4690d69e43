// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/sim/bmc"
	"github.com/holdfast-ha/holdfast/worker/api"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	"github.com/holdfast-ha/holdfast/worker/link"
	wpower "github.com/holdfast-ha/holdfast/worker/power"
	"github.com/holdfast-ha/holdfast/worker/power/execdriver"
	"github.com/holdfast-ha/holdfast/worker/power/ipmi"
	"github.com/holdfast-ha/holdfast/worker/proc"
	"github.com/holdfast-ha/holdfast/worker/provider/execprovider"
)

// machines is a program of provider exec over files: <host>.on, <host>.boot while it runs,
// <host>.log of what was done to it, <host>.sulks while the program cannot tell.
const machines = `#!/bin/sh
d=${0%/*}
read -r q
h=${q#*\"host\":\"}; h=${h%%\"*}
say() { printf '%s\n' "$1"; exit 0; }
case $1 in
eligible | health | activity) [ -e "$d/$h.sulks" ] && exit 7 ;;
esac
case $1 in
eligible) say '{"version":1,"verdict":"pass"}' ;;
health)
  [ -e "$d/$h.boot" ] || say '{"version":1,"verdict":"fail","reason":"port 5432 does not answer"}'
  gate=${q#*\"gate\":\"}; [ "$gate" = "$q" ] && gate= || gate=${gate%%\"*}
  say '{"version":1,"verdict":"pass","boot":"'"$(cat "$d/$h.boot")"'","instances":["db-'"$h"'"],"gate":"'"$gate"'"}' ;;
activity)
  [ -e "$d/$h.boot" ] && say '{"version":1,"verdict":"active","reason":"its log grows","signals":{"disks":"alive"}}'
  say '{"version":1,"verdict":"idle","reason":"its log stands still","signals":{"agent":"dead","disks":"dead"}}' ;;
identity) say '{"identity":{"serial":"'"$h"'"}}' ;;
state) [ -e "$d/$h.on" ] && say '{"state":"on","authentic":true}'; say '{"state":"off","authentic":true}' ;;
fence) rm -f "$d/$h.on" "$d/$h.boot"; echo fence >>"$d/$h.log"; say '{"outcome":"accepted"}' ;;
recover) : >"$d/$h.on"; echo "$h-second" >"$d/$h.tmp"; mv "$d/$h.tmp" "$d/$h.boot"; echo recover >>"$d/$h.log"; say '{"outcome":"accepted"}' ;;
esac
exit 2
`

// scripted are resources without agents, in a partition of kind pod, and their program.
type scripted struct {
	*rig
	t   *testing.T
	w   *Worker
	dir string
}

const databases = "z/databases"

func newScripted(t *testing.T) *scripted {
	t.Helper()
	s := &scripted{rig: newRig(t), t: t, dir: t.TempDir()}
	path := filepath.Join(s.dir, "program")
	s.write("program.tmp", machines)
	for _, err := range []error{os.Chmod(s.dir, 0o755), os.Chmod(path+".tmp", 0o755), os.Rename(path+".tmp", path)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, v := range map[string]string{
		execprovider.Setting: path, "agent.ping.interval": "1s", "ha.health.failures": "2", "ha.health.timeout": "20s", "ha.activity.first.at.once": "true",
		"ha.activity.interval.initial": "1s", "ha.suspect.read.interval": "1s", "power.off.to.on": "1s", "power.session.gap": "0s", "worker.warmup": "0",
	} {
		scope := "pod/" + databases
		if name == "worker.warmup" {
			scope = "global"
		}
		s.put(t, leases.SettingKey(scope, name), v1.SettingRecord{V: 1, Value: v})
	}
	return s
}

func (s *scripted) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func (s *scripted) remove(name string) {
	s.t.Helper()
	if err := os.Remove(filepath.Join(s.dir, name)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *scripted) done(host string) string {
	text, err := os.ReadFile(filepath.Join(s.dir, host+".log"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(text)), " ")
}

// serve runs a worker, which also runs programs of the user that tests.
func (s *scripted) serve() {
	s.t.Helper()
	w, err := New(Options{ID: "w1", Etcd: s.endpoints, ListenAPI: "127.0.0.1:0", ListenAgents: "127.0.0.1:0", LeaseTTL: s.ttl, InsecureLoopback: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		s.t.Fatal(err)
	}
	uid := uint32(os.Getuid())
	w.register(execprovider.New(uid))
	if w.drivers, err = wpower.NewRegistry(execdriver.NewProvider(proc.NewRunner(8), uid), ipmi.New(w.hostile)); err != nil {
		s.t.Fatal(err)
	}
	s.w = w
	background(s.t, w.Run)
}

func (s *scripted) declare(host string, devices ...v1.Device) {
	s.t.Helper()
	s.write(host+".on", "")
	s.write(host+".boot", host+"-first")
	if len(devices) == 0 {
		devices = []v1.Device{{Name: "script", Driver: execdriver.ProviderKind, Assurance: "A3"}}
	}
	s.put(s.t, leases.HostSpecKey(host), v1.HostSpec{V: 1, ID: host, Partition: databases, Provider: execprovider.Kind, Labels: map[string]string{"port": "5432"}, Power: devices})
}

func (s *scripted) rec(host string) ha.Record {
	rec, _ := read[ha.Record](s.t, s.rig, leases.HostHAKey(host))
	return rec
}

// until waits longer than eventually: several seconds of settling are part of it.
func (s *scripted) until(what string, cond func() bool) {
	s.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(3 * time.Minute); !cond(); {
		select {
		case <-tick.C:
		case <-end:
			s.t.Fatalf("never: %s\n%s", what, strings.Join(s.events(s.t, 0), "\n"))
		}
	}
}

// TestScriptsSuperviseAResource: resources without an agent, in a pod, are supervised by
// scripts: one breaks, is seen idle, held while disarmed, then recovered by script; one is
// fenced by the power device it has; one whose script crashes is left alone, and that is told.
func TestScriptsSuperviseAResource(t *testing.T) {
	t.Parallel()
	s := newScripted(t)
	chassis := bmc.NewChassis(bmc.ChassisConfig{On: true})
	board := bmc.New(bmc.Config{Name: "n2", Addr: "127.0.0.1:0", GUID: [16]byte{2}, Chassis: chassis, Users: []bmc.User{{Name: "op", Password: "pw", Privilege: bmc.Operator}}})
	if err := board.Listen(); err != nil {
		t.Fatal(err)
	}
	background(t, board.Run)
	hosts := []string{"n1", "n2", "n3", "n4", "n5", "n6"} // two of them are less than the share that guards allow
	for _, h := range hosts {
		if h == "n2" {
			s.declare(h, v1.Device{Name: "bmc", Driver: "ipmi", Address: board.Addr().String(), User: "op", Secret: "env:HOLDFAST_TEST_BMC"})
			continue
		}
		s.declare(h)
	}
	s.put(t, leases.SettingKey("host/n1", settingArmed), v1.SettingRecord{V: 1, Value: "false"})
	s.put(t, leases.SettingKey("host/n2", "ha.policy"), v1.SettingRecord{V: 1, Value: "fence"})
	s.serve()
	s.until("all are AVAILABLE", func() bool {
		return !slices.ContainsFunc(hosts, func(h string) bool { return s.rec(h).State != ha.Available })
	})
	if r := s.rec("n1"); r.Boot.ID != "n1-first" || !slices.Equal(r.Instances, []string{"db-n1"}) {
		t.Errorf("boot %q with %v", r.Boot.ID, r.Instances)
	}

	// An agent on such a machine is not heard: two voices would be two boots.
	(*door)(s.w).Ping(&link.Session{Host: "n5", Boot: "agent"}, &agentpb.Ping{Report: &agentpb.Report{HypervisorOk: true}}, time.Now())
	s.remove("n1.boot")
	s.remove("n2.boot")
	s.until("the disarmed one is held, seen idle", func() bool {
		r := s.rec("n1")
		return r.State == ha.Suspect && slices.ContainsFunc(r.Holds(), func(h ha.Hold) bool { return h.By == "armed" }) && r.Incident.Last.Verdict == ha.Idle
	})
	if done := s.done("n1"); done != "" {
		t.Errorf("disarmed, and its scripts did %s", done)
	}
	s.put(t, leases.SettingKey("host/n1", settingArmed), v1.SettingRecord{V: 1, Value: "true"})
	s.until("it is recovered by script", func() bool { r := s.rec("n1"); return r.State == ha.Available && r.Boot.ID == "n1-second" })
	if done := s.done("n1"); !strings.HasPrefix(done, "fence ") || !strings.HasSuffix(done, " recover") || strings.Count(done, "recover") != 1 {
		t.Errorf("its scripts did %q, want fence, perhaps again, then recover", done)
	}
	s.until("the other is fenced by its BMC", func() bool { return s.rec("n2").State == ha.Fenced })
	r := s.rec("n2")
	if r.Proof == nil || r.Proof.Boot != "n2-first" || r.Proof.Assurance != power.A3 || !slices.Equal(r.Proof.Instances, []string{"db-n2"}) || chassis.Power() || s.done("n2") != "" {
		t.Errorf("proof %+v, chassis on %v, scripts did %q", r.Proof, chassis.Power(), s.done("n2"))
	}
	told := func(what string) func() bool {
		return func() bool {
			return slices.ContainsFunc(s.events(t, 0), func(x string) bool { return strings.HasPrefix(x, what+" ") })
		}
	}
	for _, want := range []string{"ha.safe-to-restart n1", "ha.safe-to-restart n2"} {
		if !told(want)() {
			t.Errorf("no event %q in\n%s", want, strings.Join(s.events(t, 0), "\n"))
		}
	}
	s.write("n4.sulks", "")
	s.until("the crashing script is told", told("provider.blind n4"))
	if r := s.rec("n4"); r.State != ha.Available || s.done("n4") != "" {
		t.Errorf("its script crashed, and it is %s, scripts did %q", r.State, s.done("n4"))
	}
	if r := s.rec("n5"); r.Boot.ID != "n5-first" {
		t.Errorf("boot %q", r.Boot.ID)
	}
	p, _ := read[ha.PartitionRecord](t, s.rig, leases.PartitionStateKey(databases))
	if p.State != ha.PartitionActive || p.Members != len(hosts) {
		t.Errorf("partition %+v", p)
	}
	s.remove("n4.sulks")
	s.until("the crashed one is seen again", told("provider.sees n4"))
}

// TestProviderIsChecked: a host is declared with a provider that can work there, or not at
// all; one on record that this worker does not know is not protected in silence.
func TestProviderIsChecked(t *testing.T) {
	s := newScripted(t)
	s.put(t, leases.HostSpecKey("h9"), v1.HostSpec{V: 1, ID: "h9", Partition: "z/p/c", Provider: "vmware"})
	s.serve()
	b := (*backend)(s.w)
	s.until("it knows the settings", func() bool {
		return s.w.view.effective(databases, "", time.Now()).String(execprovider.Setting) != ""
	})
	trial, _ := api.WithTrial(t.Context())
	good := v1.HostSpec{ID: "n9", Partition: databases, Provider: execprovider.Kind, Power: []v1.Device{{Name: "script", Driver: execdriver.ProviderKind}}}
	if _, err := b.PutHost(trial, "ann", good, -1); err != nil {
		t.Error(err)
	}
	for why, change := range map[string]func(*v1.HostSpec){
		`"qemu", allowed are exec, kvm`:                  func(h *v1.HostSpec) { h.Provider = "qemu" },
		"setting ha.exec.program is empty at this scope": func(h *v1.HostSpec) { h.Partition = "z/other" },
		"allowed is none: it is that of setting ha.exec.program": func(h *v1.HostSpec) {
			h.Power = []v1.Device{{Name: "script", Driver: execdriver.ProviderKind, Params: map[string]string{"program": "/bin/true"}}}
		},
	} {
		spec := good
		change(&spec)
		if _, err := b.PutHost(trial, "ann", spec, -1); err == nil || !strings.Contains(fmt.Sprint(err), why) {
			t.Errorf("%v, want %s", err, why)
		}
	}
	s.until("the unknown provider is told", func() bool {
		r := s.rec("h9")
		return r.Eligible == ha.Fail && strings.Contains(r.EligibleWhy, `provider "vmware" is not known to this worker; it knows exec, kvm`)
	})
}
