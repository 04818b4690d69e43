// SPDX-License-Identifier: Apache-2.0

package apitest

import (
	"context"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

func (f *Fleet) Partitions(context.Context) ([]v1.Partition, error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	var out []v1.Partition
	for _, p := range f.PartMap {
		out = append(out, p)
	}
	return out, nil
}

func (f *Fleet) Partition(_ context.Context, path string) (v1.Partition, error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	p, ok := f.PartMap[path]
	if !ok {
		return p, missing("partition", path)
	}
	return p, nil
}

func (f *Fleet) PutPartition(ctx context.Context, who string, spec v1.PartitionSpec, rev int64) (v1.Partition, error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	defer f.trial(ctx)()
	p := f.PartMap[spec.Path]
	if err := check("partition "+spec.Path, p.Revision, rev); err != nil {
		return p, err
	}
	f.Revision++
	p.Spec, p.Revision = spec, f.Revision
	if p.State == "" {
		p.State = "INACTIVE"
	}
	f.PartMap[spec.Path] = p
	f.note(who, "put partition %s", spec.Path)
	return p, nil
}

func (f *Fleet) SetPartition(ctx context.Context, who, path, what string, s v1.Switch) (v1.Partition, error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	defer f.trial(ctx)()
	p, ok := f.PartMap[path]
	if !ok {
		return p, missing("partition", path)
	}
	if what == "ha" {
		p.Spec.HADisabled = !s.On
	} else {
		p.Spec.Disabled = !s.On
	}
	p.State = "ACTIVE"
	if !s.On {
		p.State = "NONE"
	}
	f.Revision++
	p.Revision = f.Revision
	f.PartMap[path] = p
	f.note(who, "set partition %s %s %v %q", path, what, s.On, s.Reason)
	return p, nil
}

func (f *Fleet) ExplainPartition(ctx context.Context, path string) (v1.Explanation, error) {
	p, err := f.Partition(ctx, path)
	return v1.Explanation{Subject: "partition " + path, State: p.State, Since: p.Since, Why: []string{p.Reason}}, err
}
