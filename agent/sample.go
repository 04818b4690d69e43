// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/probe"
)

// looker looks at what one host does on one pool.
type looker struct {
	pool     *pool
	self     string   // the reader
	host     string   // the host in question
	controls []string // hosts whose stamps should move, the reader first
	disks    []string
}

// sample is one look. Slices follow the order of the looker's.
type sample struct {
	stamp    reading[[]byte]
	controls []reading[[]byte]
	disks    []reading[probe.DiskSample]
	acked    uint64 // the reader's own stamps that the storage had taken
}

// reading is one thing read, or why not.
type reading[T any] struct {
	value T
	err   error
}

// first and second take the samples in opposite order: the controls are read inside the
// time between the two looks at the host in question, so that a control that moved shows
// a pool that was alive in that time.
func (l *looker) first(ctx context.Context) (sample, error) {
	var s sample
	l.readHost(ctx, &s)
	l.readControls(ctx, &s)
	return s, ctx.Err()
}

func (l *looker) second(ctx context.Context) (sample, error) {
	var s sample
	l.readControls(ctx, &s)
	l.readHost(ctx, &s)
	return s, ctx.Err()
}

func (l *looker) readHost(ctx context.Context, s *sample) {
	s.stamp.value, s.stamp.err = l.pool.ReadStamp(ctx, l.host)
	for _, d := range l.disks {
		v, err := l.pool.StatDisk(ctx, d)
		s.disks = append(s.disks, reading[probe.DiskSample]{v, err})
	}
}

func (l *looker) readControls(ctx context.Context, s *sample) {
	s.acked = l.pool.acknowledged()
	for _, c := range l.controls {
		v, err := l.pool.ReadStamp(ctx, c)
		s.controls = append(s.controls, reading[[]byte]{v, err})
	}
}

// compare is the verdict over two whole samples. "Still" is said only of a pool on which
// a control moved (ha.md §5).
func (l *looker) compare(first, second sample) *agentpb.PoolAnswer {
	out := &agentpb.PoolAnswer{Pool: l.pool.ID()}
	var why []string
	control, other, say := l.compareControls(first, second)
	out.Control = control
	if say != "" {
		why = append(why, say)
	}
	out.Stamp, say = l.compareStamp(first.stamp, second.stamp, other)
	if say != "" {
		why = append(why, say)
	}
	out.Disks, out.MovedDisks, say = l.compareDisks(first, second)
	if say != "" {
		why = append(why, say)
	}
	if control != agentpb.Seen_SEEN_MOVED {
		out.Stamp, out.Disks = doubt(out.Stamp), doubt(out.Disks)
	}
	out.Detail = strings.Join(why, "; ")
	return out
}

// doubt turns "still" into "unknown".
func doubt(s agentpb.Seen) agentpb.Seen {
	if s == agentpb.Seen_SEEN_STILL {
		return agentpb.Seen_SEEN_UNKNOWN
	}
	return s
}

// compareControls also says whether a control other than the reader moved. The reader's
// own stamp counts only if the storage took a new one between the samples: a client may
// show its own write before the server has it.
func (l *looker) compareControls(first, second sample) (control agentpb.Seen, other bool, why string) {
	var unread error
	for i, host := range l.controls {
		a, b := first.controls[i], second.controls[i]
		switch err := cmp.Or(a.err, b.err); {
		case err != nil:
			unread = cmp.Or(unread, err)
		case bytes.Equal(a.value, b.value), host == l.self && first.acked == second.acked:
			if control == agentpb.Seen_SEEN_UNKNOWN {
				control = agentpb.Seen_SEEN_STILL
			}
		default:
			control = agentpb.Seen_SEEN_MOVED
			other = other || host != l.self
		}
	}
	switch control {
	case agentpb.Seen_SEEN_STILL:
		why = "pool frozen for this reader: no live host's stamp moved, nor its own"
	case agentpb.Seen_SEEN_UNKNOWN:
		why = fmt.Sprintf("no control stamp could be read: %v", unread)
	}
	return control, other, why
}

// compareStamp: a stamp that is in neither sample was never written, and that is still,
// but only where another host's stamp moves. Where the reader sees nobody's stamp but its
// own, it may be looking at another storage than they.
func (l *looker) compareStamp(first, second reading[[]byte], other bool) (agentpb.Seen, string) {
	absent := errors.Is(first.err, fs.ErrNotExist)
	switch {
	case absent && second.err == nil:
		return agentpb.Seen_SEEN_MOVED, "its first stamp was written in between"
	case absent && errors.Is(second.err, fs.ErrNotExist) && other:
		return agentpb.Seen_SEEN_STILL, fmt.Sprintf("%s has never written a stamp here", l.host)
	case absent && errors.Is(second.err, fs.ErrNotExist):
		return agentpb.Seen_SEEN_UNKNOWN, fmt.Sprintf("no stamp of %s here, and no other host's moved: is this the same storage?", l.host)
	case first.err != nil:
		return agentpb.Seen_SEEN_UNKNOWN, first.err.Error()
	case second.err != nil:
		return agentpb.Seen_SEEN_UNKNOWN, second.err.Error()
	case bytes.Equal(first.value, second.value):
		return agentpb.Seen_SEEN_STILL, ""
	}
	return agentpb.Seen_SEEN_MOVED, ""
}

// compareDisks: moved when any moved, still when there is at least one and all were read
// twice, unknown otherwise.
func (l *looker) compareDisks(first, second sample) (seen agentpb.Seen, moved []string, why string) {
	unread := 0
	for i, disk := range l.disks {
		a, b := first.disks[i], second.disks[i]
		switch err := cmp.Or(a.err, b.err); {
		case err != nil:
			if unread++; unread == 1 {
				why = err.Error()
			}
		case !a.value.Equal(b.value) && !slices.Contains(moved, disk):
			moved = append(moved, disk)
		}
	}
	if unread > 1 {
		why = fmt.Sprintf("%s (and %d more)", why, unread-1)
	}
	switch {
	case len(moved) > 0:
		return agentpb.Seen_SEEN_MOVED, moved, why
	case unread > 0 || len(l.disks) == 0:
		return agentpb.Seen_SEEN_UNKNOWN, nil, why
	}
	return agentpb.Seen_SEEN_STILL, nil, ""
}
