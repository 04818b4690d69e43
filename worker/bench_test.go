// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"fmt"
	"io"
	"log/slog"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/leases/etcdtest"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	"github.com/holdfast-ha/holdfast/worker/link"
)

// BenchmarkBeat is what heartbeats of 10,000 hosts cost their one worker beyond its frames: from the
// frame to the end of the owner's step (issue: ≤ 20 µs of CPU each). One iteration is one beat
// of every host; -short takes 200 hosts.
func BenchmarkBeat(b *testing.B) {
	n := 10_000
	if testing.Short() {
		n = 200
	}
	e := etcdtest.Start(b)
	client := e.Client(b)
	var ops []leases.Op
	for i := range n {
		spec := v1.HostSpec{V: 1, ID: beatHost(i), Partition: fmt.Sprintf("z/p/c%d", i/50), Provider: "kvm", Pools: []string{"nfs1"}}
		if ops = append(ops, leases.Put(leases.HostSpecKey(spec.ID), spec)); len(ops) == 100 || i == n-1 {
			if _, err := client.Commit(b.Context(), leases.Unowned(), ops...); err != nil {
				b.Fatal(err)
			}
			ops = nil
		}
	}
	w, err := New(Options{ID: "w1", Etcd: e.Endpoints(), ListenAPI: "127.0.0.1:0", ListenAgents: "127.0.0.1:0", LeaseTTL: time.Minute, InsecureLoopback: true, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		b.Fatal(err)
	}
	background(b, w.Run)
	until := func(ok func() bool) {
		for end := time.Now().Add(5 * time.Minute); !ok(); {
			if time.Now().After(end) {
				b.Fatal("not within 5 minutes")
			}
			pause(b.Context(), 2*time.Millisecond)
		}
	}
	until(func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.owners) == n })
	sessions := make([]*link.Session, n)
	for i := range sessions {
		sessions[i] = &link.Session{Host: beatHost(i), Boot: "boot-" + beatHost(i)}
	}
	report := &agentpb.Report{HypervisorOk: true, Pools: []*agentpb.PoolReport{{Id: "nfs1", State: agentpb.PoolReport_OK}}}
	for i := range 10 {
		report.Instances = append(report.Instances, &agentpb.Instance{Id: fmt.Sprint("i", i), Disks: []*agentpb.Disk{{Pool: "nfs1", Path: fmt.Sprintf("i%d.qcow2", i)}}})
	}
	round := func() {
		for _, s := range sessions {
			if (*door)(w).Ping(s, &agentpb.Ping{Report: report}, time.Now()) == nil {
				b.Fatalf("nobody owns %s", s.Host)
			}
		}
		until(func() bool { return w.mailDepth() == 0 })
	}
	round() // boots become known
	round()
	rev, err := client.Revision(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	rounds, began := 0, processor(b)
	for b.Loop() {
		round()
		rounds++
	}
	took := processor(b) - began
	b.ReportMetric(float64(took.Nanoseconds())/float64(rounds*n), "cpu-ns/beat")
	now, err := client.Revision(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(now-rev)/float64(rounds*n), "writes/beat")
}

func beatHost(i int) string { return fmt.Sprintf("h%05d", i) }

// processor is the time that this process has had a processor.
func processor(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
