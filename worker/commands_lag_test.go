// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"errors"
	"sync"
	"testing"

	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// A command that follows the declaration of its pools and hosts is not refused because this
// worker has not seen them yet: what the mirror does not show is looked for in etcd first.
func TestCommandRightAfterItsDeclaration(t *testing.T) {
	r := newRig(t)
	b := r.watching(t, "w-1")
	behind, gate := make(chan struct{}), make(chan struct{})
	open := sync.OnceFunc(func() { close(gate) })
	t.Cleanup(open)
	began := sync.OnceFunc(func() { close(behind) })
	b.mirror.Subscribe(leases.HostsPrefix, func(leases.Change) { // the mirror stands still here
		began()
		<-gate
	})
	r.host(t, "h0", false)
	<-behind
	r.put(t, leases.PoolKey("p1"), v1.Pool{V: 1, ID: "p1", Type: "nfs", Role: "primary", Hosts: []string{"h1"}})
	r.put(t, leases.PoolKey("p2"), v1.Pool{V: 1, ID: "p2", Type: "nfs", Role: "primary", Hosts: []string{"h1"}})
	r.host(t, "h1", false)
	r.put(t, leases.VolumeKey("v1"), v1.Volume{V: 1, ID: "v1", Place: v1.Place{Pool: "p1", Path: "v1.qcow2"}, Format: "qcow2", Size: 1 << 20, State: "ready"})
	ask := v1.CommandRequest{Kind: "copy", Volume: "v1", Pool: "p2", As: "v2"}

	_, err := b.CommandHost(t.Context(), ask)
	var p *v1.Problem
	if !errors.As(err, &p) || p.Code != v1.CodeUnavailable {
		t.Fatalf("as long as it is behind: %v, want unavailable, not a refusal", err)
	}
	type answer struct {
		host string
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		host, err := b.CommandHost(t.Context(), ask)
		answers <- answer{host, err}
	}()
	open()
	if a := <-answers; a.err != nil || a.host != "h1" {
		t.Errorf("once it has caught up: %q, %v, want h1", a.host, a.err)
	}
	ask.Host = "h1"
	if plan, err := b.w().plan(t.Context(), "c-1", "h1", ask); err != nil || len(plan.spec.Items) != 1 {
		t.Errorf("plan: %+v, %v", plan, err)
	}
	ask.Pool = "p3"
	if _, err := b.w().plan(t.Context(), "c-1", "h1", ask); !errors.As(err, &p) || p.Code != v1.CodeBadRequest || p.Field != "pool" {
		t.Errorf("a pool that is not there: %v, want a refusal", err)
	}
}
