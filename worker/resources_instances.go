// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/worker/api"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// Instances implements api.Backend.
func (b *backend) Instances() api.Shelf[v1.Instance] {
	return shelf[v1.Instance]{
		w: b.w(), key: leases.InstanceKey, stamp: func(i *v1.Instance, rev int64) { i.Revision = rev },
		declare: b.declareInstance,
		forget: func(ctx context.Context, i v1.Instance, x *extra) error {
			if err := busy("instance", i.ID, i.Command); err != nil {
				return err
			}
			if b.w().runs(i.Host, i) {
				return refused(fmt.Sprintf("forget instance %s: it runs on %s", i.ID, i.Host), "stop it first")
			}
			return b.attach(ctx, "", i.Volumes, x)
		},
	}
}

// declareInstance checks a declaration; what the instance does and where it is belongs to
// commands once it is on record.
func (b *backend) declareInstance(ctx context.Context, was, i *v1.Instance, o api.PutOptions, x *extra) error {
	var errs []error
	if i.MemoryMiB < 1 {
		errs = append(errs, field("memoryMiB", i.MemoryMiB, "a number above 0"))
	}
	if i.CPUs < 1 {
		errs = append(errs, field("cpus", i.CPUs, "a number above 0"))
	}
	if len(i.Volumes) == 0 {
		errs = append(errs, field("volumes", "", "at least one volume"))
	}
	if _, ok := b.view.spec(i.Host); !ok {
		errs = append(errs, field("host", i.Host, "a host on record"))
	}
	i.State = cmp.Or(i.State, "stopped")
	errs = append(errs, oneOf("state", i.State, v1.InstanceStates))
	if was != nil {
		errs = append(errs, busy("instance", i.ID, was.Command))
		if was.Host != i.Host {
			errs = append(errs, field("host", i.Host, was.Host+", where it is: it moves with holdfast instance migrate"))
		}
	}
	if err := firstProblem(slices.DeleteFunc(errs, func(e error) bool { return e == nil })); err != nil {
		return err
	}
	if placed := was == nil || i.HA && !was.HA; placed && !o.Force {
		if ok, why := b.w().fits(i.Host, i.HA); !ok {
			return refused(fmt.Sprintf("place instance %s on %s: %s", i.ID, i.Host, why), "another host: holdfast allocate; or all the same: --force")
		}
	}
	i.V, i.Command, i.Generation, i.Since = 1, "", 1, time.Now().UTC()
	var had []string
	if was != nil {
		i.State, i.Generation, i.Since, had = was.State, was.Generation, was.Since, was.Volumes
	}
	gone := slices.DeleteFunc(slices.Clone(had), func(v string) bool { return slices.Contains(i.Volumes, v) })
	if err := b.attach(ctx, "", gone, x); err != nil {
		return err
	}
	added := slices.DeleteFunc(slices.Clone(i.Volumes), func(v string) bool { return slices.Contains(had, v) })
	return b.attach(ctx, i.ID, added, x)
}

// attach makes volumes those of an instance, or of none, in the transaction of x.
func (b *backend) attach(ctx context.Context, instance string, volumes []string, x *extra) error {
	for n, id := range volumes {
		v, rev, err := fetchRecord[v1.Volume](ctx, b.w(), "volume", id, leases.VolumeKey(id))
		switch {
		case err != nil:
			return err
		case v.Command != "":
			return busy("volume", id, v.Command)
		case instance != "" && v.Instance != "" && v.Instance != instance:
			return field(fmt.Sprintf("volumes[%d]", n), id, "a volume that is no disk of another instance, this one is of "+v.Instance)
		case slices.Contains(volumes[:n], id):
			return field(fmt.Sprintf("volumes[%d]", n), id, "each volume once")
		}
		v.Instance = instance
		x.put(leases.VolumeKey(id), rev, v)
	}
	return nil
}
