// SPDX-License-Identifier: Apache-2.0

package exec

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/coordinator/command"
)

// hung is disks of which one kind of call does not come back before it is let go, whatever
// its context says.
type hung struct {
	*disks
	op    string
	goOn  chan struct{}
	calls atomic.Int32
}

func (h *hung) wait(op string) {
	if op == h.op {
		h.calls.Add(1)
		<-h.goOn
	}
}

func (h *hung) LookVolume(ctx context.Context, f hypervisor.Disk) hypervisor.VolumeSight {
	h.wait("look")
	return h.disks.LookVolume(ctx, f)
}

func (h *hung) RenameVolume(ctx context.Context, f hypervisor.Disk, path string) error {
	h.wait("rename")
	return h.disks.RenameVolume(ctx, f, path)
}

// A look without an answer is no answer: the command waits, says so, and goes on with the
// first answer there is. However often it looks, one call is left behind.
func TestALookWithoutAnAnswerIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hung{disks: &disks{}, op: "look", goOn: make(chan struct{})}
		r := startOn(t, h.disks, h)
		if err := r.x.Start(t.Context(), "c1", spec); err != nil {
			t.Fatal(err)
		}
		<-time.After(10 * time.Minute) // of the bubble
		e, _ := r.j.Get("c1")
		if last := e.Last(); last.State != command.Processing || !strings.Contains(last.What, "waiting: a look at a:v: no answer within 5s") {
			t.Errorf("it stands at %s: %s", last.State, last.What)
		}
		if e := r.x.Look(t.Context(), "c1", command.Question{Spec: spec, Files: []command.Ref{spec.Items[0].From}}); e.Files["a:v"].Answer != command.CouldNotLook || !e.Working {
			t.Errorf("evidence %+v", e)
		}
		if n, did := h.calls.Load(), r.done(); n != 1 || len(did) > 0 || len(e.Steps) != 2 {
			t.Errorf("after 10 minutes %d calls under way, want 1; did %v; steps %v", n, did, e.Steps)
		}
		close(h.goOn)
		if last := r.end(t, "c1"); last.State != command.Completed {
			t.Errorf("%s: %s", last.State, last.What)
		}
	})
}

// A command that waits for a look is cancelled at once.
func TestCancelWhileItWaitsForALook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hung{disks: &disks{}, op: "look", goOn: make(chan struct{})}
		r := startOn(t, h.disks, h)
		defer close(h.goOn)
		if err := r.x.Start(t.Context(), "c1", spec); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Minute) // of the bubble
		r.x.Cancel("c1")
		asked := time.Now()
		if last := r.end(t, "c1"); last.State != command.Failed || !strings.Contains(last.What, "cancelled") || time.Since(asked) > time.Second {
			t.Errorf("after %v: %s: %s", time.Since(asked), last.State, last.What)
		}
		if did := r.done(); len(did) > 0 {
			t.Errorf("did %v", did)
		}
	})
}

// Of a volume whose users are not known nobody knows that it stands still.
func TestUnknownUsersAreNoCopy(t *testing.T) {
	r := start(t, &disks{unknown: "the hypervisor is not there"})
	if err := r.x.Start(t.Context(), "c1", spec); err != nil {
		t.Fatal(err)
	}
	if last := r.end(t, "c1"); last.State != command.Failed || !strings.Contains(last.What, "not known") {
		t.Errorf("%s: %s", last.State, last.What)
	}
	if did := r.done(); len(did) > 0 {
		t.Errorf("did %v", did)
	}
}

// What was left behind may still be done: as long as it has not come back this process is at
// work on the command, and nobody judges it.
func TestALeftCallIsWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hung{disks: &disks{}, op: "rename", goOn: make(chan struct{})}
		r := startOn(t, h.disks, h)
		if err := r.x.Start(t.Context(), "c1", spec); err != nil {
			t.Fatal(err)
		}
		<-time.After(2 * actLimit) // of the bubble
		if last := r.end(t, "c1"); last.State != command.Interrupted {
			t.Errorf("%s: %s", last.State, last.What)
		}
		look := func() command.HostEvidence { return r.x.Look(t.Context(), "c1", command.Question{Spec: spec}) }
		if e := look(); !e.Working {
			t.Error("a rename that may still be done is nobody's work")
		}
		close(h.goOn)
		synctest.Wait()
		if e := look(); e.Working || !r.files["b:v-1.raw"] {
			t.Errorf("after its end: working %v, files %v", e.Working, r.files)
		}
	})
}

// leaving is a hypervisor whose migrations do not begin, so that there is no job to end.
type leaving struct {
	turning
	goOn chan struct{}
	jobs atomic.Int32
}

func (h *leaving) Migrate(context.Context, hypervisor.Migration) error {
	<-h.goOn
	return hypervisor.ErrBusy
}
func (h *leaving) MigrationJob(context.Context, string) hypervisor.JobSight {
	h.jobs.Add(1)
	return hypervisor.JobSight{Answer: hypervisor.Absent}
}

// A migration that is cancelled before it has a job is looked at now and then, not all the time.
func TestACancelledMigrationIsNotLookedAtAllTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &leaving{turning: turning{disks: &disks{}}, goOn: make(chan struct{})}
		r := startOn(t, h.disks, h)
		if err := r.x.Start(t.Context(), "c1", command.Spec{V: 1, Kind: command.Migrate, Live: true, Instance: "moves", Target: "h2"}); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Minute) // of the bubble
		r.x.Cancel("c1")
		before := h.jobs.Load()
		<-time.After(time.Minute) // of the bubble
		if n := h.jobs.Load() - before; n < 10 || n > 100 {
			t.Errorf("%d looks in a minute", n)
		}
		close(h.goOn)
		r.end(t, "c1")
	})
}
