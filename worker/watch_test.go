// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/holdfast-ha/holdfast/worker/api"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// A watch of hosts is taken up again at another worker where it was left: what changed, what
// was forgotten and what the filter selects no more is told, the rest is not (libraries.md §4.5).
func TestHostWatchGoesOnAtAnotherWorker(t *testing.T) {
	r := newRig(t)
	a, b := r.watching(t, "w-1"), r.watching(t, "w-2")
	put := func(id, partition string, labels map[string]string) {
		t.Helper()
		if _, err := a.PutHost(t.Context(), "ann", v1.HostSpec{V: 1, ID: id, Partition: partition, Labels: labels}, -1); err != nil {
			t.Fatal(err)
		}
	}
	enough := errors.New("enough")
	// watch tells of hosts until all wanted were told, and up to which revision.
	watch := func(b *backend, after int64, want ...string) (upTo int64) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		var got []string
		err := b.WatchHosts(ctx, api.HostFilter{Partition: cluster}, api.HostWatch{After: after,
			Host: func(h v1.Host) error {
				got = append(got, map[bool]string{true: "-"}[h.Deleted]+h.Spec.ID)
				return nil
			},
			UpTo: func(rev int64) error {
				if upTo = rev; len(got) >= len(want) {
					return enough
				}
				return nil
			},
		})
		if !errors.Is(err, enough) {
			t.Fatalf("watch after %d ended with %v after %q", after, err, got)
		}
		slices.Sort(got)
		if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
			t.Errorf("after %d (-want +got):\n%s", after, d)
		}
		return upTo
	}
	for _, id := range []string{"h1", "h2", "h3", "h4"} {
		put(id, cluster, nil)
	}
	eventually(t, "both know all hosts", func() bool { return len(hostsOf(a.w())) == 4 && len(hostsOf(b.w())) == 4 })
	left := watch(a, 0, "h1", "h2", "h3", "h4")
	put("h2", cluster, map[string]string{"rack": "r2"})
	put("h4", "z/p/other", nil)
	if err := a.DeleteHost(t.Context(), "ann", "h3", -1); err != nil {
		t.Fatal(err)
	}
	now := watch(b, left, "-h3", "-h4", "h2")
	if now <= left {
		t.Errorf("told up to %d, then up to %d", left, now)
	}
	watch(a, now)
	put("h1", cluster, map[string]string{"rack": "r1"})
	watch(b, now, "h1")
}
