// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// TestTakeoverWritesNothing: hosts that were not heard before a hand-off and are not heard
// after it cost etcd nothing, however many there are.
func TestTakeoverWritesNothing(t *testing.T) {
	r := newRig(t)
	r.put(t, leases.SettingKey("global", "agent.ping.interval"), v1.SettingRecord{V: 1, Value: "1s"})
	r.host(t, "h1", false)
	_, stopA := r.worker(t, "w1")
	var before ha.Record
	var rev int64
	eventually(t, "the host is noted as unheard", func() bool {
		before, rev = read[ha.Record](t, r, leases.HostHAKey("h1"))
		return before.Health == ha.Fail && before.Eligible != ha.Unknown
	})
	stopA()
	b, _ := r.worker(t, "w2")
	eventually(t, "the new owner misses it too", func() bool {
		missing := false
		err := b.live(t.Context(), "h1", func(_ context.Context, o *owner) {
			missing = o.live.missing && o.rec.Health == ha.Fail
		})
		return err == nil && missing
	})
	if after, now := read[ha.Record](t, r, leases.HostHAKey("h1")); now != rev {
		t.Errorf("written at revision %d: was %+v, is %+v", now, before, after)
	}
}

// TestSharedFromTheBeginning: workers that start together share what nobody owns, also
// when one of them has more time to read the records than the other.
func TestSharedFromTheBeginning(t *testing.T) {
	r := newRig(t)
	slow, err := r.client.OpenSession(t.Context(), leases.SessionConfig{Worker: "w2", Boot: "b", TTL: 30 * time.Second, Record: map[string]any{"state": stateStarting, "weight": 1}})
	if err != nil {
		t.Fatal(err)
	}
	r.worker(t, "w1")
	eventually(t, "the quick one is ready", func() bool {
		rec, _ := read[v1.Worker](t, r, leases.WorkerKey("w1"))
		return rec.State == stateReady
	})
	if kvs, _, err := r.client.List(t.Context(), leases.SlotsPrefix); err != nil || len(kvs) > 0 {
		t.Fatalf("%d slots are taken before the slow one is ready: %v", len(kvs), err)
	}
	if err := slow.Update(t.Context(), map[string]any{"state": stateReady, "weight": 1}); err != nil {
		t.Fatal(err)
	}
	slots := 0
	eventually(t, "it takes its half", func() bool {
		kvs, _, err := r.client.List(t.Context(), leases.SlotsPrefix)
		slots = len(kvs)
		return err == nil && slots >= 512 // in several transactions
	})
	if slots != 512 {
		t.Errorf("it takes %d slots", slots)
	}
}

// TestEtcdIsWaitedFor: a worker that finds no etcd waits for it, and ends in order when
// it is told to.
func TestEtcdIsWaitedFor(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // accepts, and never answers
	w, err := New(Options{ID: "w1", Etcd: []string{"http://" + l.Addr().String()}, ListenAPI: "127.0.0.1:0", ListenAgents: "127.0.0.1:0", InsecureLoopback: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	stop := background(t, w.Run)
	for range 2 { // the worker gives the first connection up, and makes another
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Fatal(err)
		}
		c.Close()
	}
	stop()
}
