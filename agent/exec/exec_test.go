// SPDX-License-Identifier: Apache-2.0

package exec

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/agent/journal"
	"github.com/holdfast-ha/holdfast/coordinator/command"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// disks is a hypervisor with files in memory; ops is what was done, in order.
type disks struct {
	files map[string]bool
	ops   chan string
	fail  map[string]error
	users []hypervisor.User
	// unknown is why there may be more of them.
	unknown string
	copied  func(ctx context.Context) error // in the middle of a copy
}

func (d *disks) Name() string                                             { return "test" }
func (d *disks) BootID(context.Context) (string, error)                   { return "b1", nil }
func (d *disks) Healthy(context.Context) error                            { return nil }
func (d *disks) Instances(context.Context) ([]hypervisor.Instance, error) { return nil, nil }
func (d *disks) Pools(context.Context) ([]hypervisor.Pool, error) {
	return []hypervisor.Pool{{ID: "b", Path: "/b"}}, nil
}
func (d *disks) Volumes(context.Context, string) ([]hypervisor.Disk, error) { return nil, nil }
func (d *disks) CreateVolume(_ context.Context, s hypervisor.CreateSpec) error {
	return d.do("create", s.Disk)
}

func (d *disks) do(op string, f hypervisor.Disk) error {
	d.ops <- op + " " + f.Pool + ":" + f.Path
	return d.fail[op]
}

func (d *disks) LookVolume(_ context.Context, f hypervisor.Disk) hypervisor.VolumeSight {
	if err := d.fail["look"]; err != nil {
		return hypervisor.VolumeSight{Reason: err.Error()}
	}
	if !d.files[f.Pool+":"+f.Path] {
		return hypervisor.VolumeSight{Answer: hypervisor.Absent}
	}
	return hypervisor.VolumeSight{Answer: hypervisor.Present, Size: 1, UsedBy: d.users, UsersUnknown: d.unknown}
}

func (d *disks) DeleteVolume(_ context.Context, f hypervisor.Disk) error {
	delete(d.files, f.Pool+":"+f.Path)
	return d.do("delete", f)
}

func (d *disks) CopyVolume(ctx context.Context, s hypervisor.CopySpec, p func(hypervisor.Progress)) error {
	if err := d.do("copy", s.To); err != nil {
		return err
	}
	p(hypervisor.Progress{Done: 1, Total: 2})
	if d.copied != nil {
		if err := d.copied(ctx); err != nil {
			return err
		}
	}
	d.files[s.To.Pool+":"+s.To.Path] = true
	return nil
}

func (d *disks) RenameVolume(_ context.Context, f hypervisor.Disk, path string) error {
	if err := d.do("rename", f); err != nil {
		return err
	}
	delete(d.files, f.Pool+":"+f.Path)
	d.files[f.Pool+":"+path] = true
	return nil
}

var spec = command.Spec{V: 1, Kind: command.Copy, Items: []command.Item{{Volume: "v", Format: "raw", From: command.Ref{Pool: "a", Path: "v"}, To: command.Ref{Pool: "b", Path: "v-1.raw"}, Temporary: ".v-1.raw.part"}}}

type rig struct {
	*disks
	x   *Executor
	j   *journal.Journal
	dir string
}

func start(t *testing.T, d *disks) *rig { return startOn(t, d, d) }

// startOn starts with a hypervisor that is made of d.
func startOn(t *testing.T, d *disks, h hypervisor.Hypervisor) *rig {
	t.Helper()
	if d.files == nil {
		d.files = map[string]bool{"a:v": true}
	}
	d.ops = make(chan string, 100)
	dir := filepath.Join(t.TempDir(), "j")
	j, err := journal.Open(dir, "b1", "p1")
	if err != nil {
		t.Fatal(err)
	}
	x := New(Options{Host: "h1", Boot: "b1", Process: "p1", Journal: j, Hypervisor: h})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- x.Run(ctx) }()
	t.Cleanup(func() { stop(); <-done })
	return &rig{d, x, j, dir}
}

// end waits for the last step of a command.
func (r *rig) end(t *testing.T, id string) command.JournalStep {
	t.Helper()
	limit := time.After(time.Minute)
	for {
		changed := r.j.Changed()
		e, _ := r.j.Get(id)
		if last := e.Last(); last.Terminal() || last.State == command.Interrupted {
			return last
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatalf("no end; it stands at %+v", e.Last())
		}
	}
}

func (r *rig) done() (out []string) {
	for {
		select {
		case op := <-r.ops:
			out = append(out, op)
		default:
			return out
		}
	}
}

// "Written before acting, including every generated name": a copy goes under its
// temporary name and gets its own at once; both were in the journal before.
func TestCopy(t *testing.T) {
	r := start(t, &disks{})
	if err := r.x.Start(t.Context(), "c1", spec); err != nil {
		t.Fatal(err)
	}
	if last := r.end(t, "c1"); last.State != command.Completed {
		t.Fatalf("%s: %s", last.State, last.What)
	}
	if got := strings.Join(r.done(), "; "); got != "copy b:.v-1.raw.part; rename b:.v-1.raw.part" {
		t.Errorf("did %s", got)
	}
	if !r.files["b:v-1.raw"] || !r.files["a:v"] {
		t.Errorf("files %v", r.files)
	}
}

// A command that comes twice is done once.
func TestTwice(t *testing.T) {
	r := start(t, &disks{})
	for range 3 {
		if err := r.x.Start(t.Context(), "c1", spec); err != nil {
			t.Fatal(err)
		}
	}
	r.end(t, "c1")
	if err := r.x.Start(t.Context(), "c1", spec); err != nil {
		t.Fatal(err)
	}
	if got := r.done(); len(got) != 2 {
		t.Errorf("did %v", got)
	}
}

// FAILED is said only of what this process has seen itself; of a rename whose outcome it
// cannot see it says that it cannot tell.
func TestWhatIsSaidOfFailures(t *testing.T) {
	for name, c := range map[string]struct {
		d    *disks
		want command.State
	}{
		"full":                  {&disks{fail: map[string]error{"copy": syscall.ENOSPC}}, command.Failed},
		"name taken":            {&disks{fail: map[string]error{"rename": hypervisor.ErrExists}}, command.Failed},
		"rename, cannot look":   {&disks{fail: map[string]error{"rename": hypervisor.ErrUnsure}}, command.Interrupted},
		"source cannot be seen": {&disks{fail: map[string]error{"look": syscall.EIO}}, command.Failed},
		"source is gone":        {&disks{files: map[string]bool{"x:y": true}}, command.Failed},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, c.d)
			if err := r.x.Start(t.Context(), "c1", spec); err != nil {
				t.Fatal(err)
			}
			if last := r.end(t, "c1"); last.State != c.want {
				t.Errorf("%s: %s, want %s", last.State, last.What, c.want)
			}
			for _, op := range r.done() {
				if strings.HasPrefix(op, "delete") {
					t.Errorf("it deleted by itself: %s", op)
				}
			}
		})
	}
}

// Without a journal nothing is done.
func TestNoJournalNoDeed(t *testing.T) {
	r := start(t, &disks{})
	if err := os.Rename(r.dir, r.dir+".gone"); err != nil {
		t.Fatal(err)
	}
	if err := r.x.Start(t.Context(), "c1", spec); err == nil {
		t.Error("a command was taken without a journal")
	}
	if got := r.done(); len(got) > 0 || r.x.Working("c1") {
		t.Errorf("did %v", got)
	}
}

// Cancel ends a copy; its temporary stays for the worker to judge.
func TestCancel(t *testing.T) {
	in := make(chan struct{})
	r := start(t, &disks{copied: func(ctx context.Context) error { close(in); <-ctx.Done(); return ctx.Err() }})
	if err := r.x.Start(t.Context(), "c1", spec); err != nil {
		t.Fatal(err)
	}
	<-in
	if e := r.x.Look(t.Context(), "c1", command.Question{Spec: spec, Files: []command.Ref{spec.Items[0].From}}); !e.Working || e.Files["a:v"].Answer != command.Present {
		t.Errorf("evidence %+v", e)
	}
	r.x.Cancel("c1")
	if last := r.end(t, "c1"); last.State != command.Failed || !strings.Contains(last.What, "cancelled") {
		t.Errorf("%s: %s", last.State, last.What)
	}
}

// Tidy deletes only files of the command, that nobody uses, and never the source of a copy.
func TestTidy(t *testing.T) {
	d := &disks{files: map[string]bool{"a:v": true, "b:v-1.raw": true, "c:x": true}}
	r := start(t, d)
	del := func(f command.Ref) command.Action {
		return r.x.Tidy(t.Context(), "c1", command.Chore{V: 1, Spec: spec, Actions: []command.Action{{Deed: command.Delete, File: f}}}).Actions[0]
	}
	for _, f := range []command.Ref{{Pool: "c", Path: "x"}, {Pool: "a", Path: "v"}} {
		if a := del(f); a.Done || !d.files[f.String()] {
			t.Errorf("%s was deleted", f)
		}
	}
	d.users = []hypervisor.User{{Kind: hypervisor.ByInstance, ID: "i3"}}
	if a := del(spec.Items[0].To); a.Done || !strings.Contains(a.Not, "instance/i3") {
		t.Errorf("a file in use was deleted: %+v", a)
	}
	d.users = nil
	if a := del(spec.Items[0].To); !a.Done || d.files["b:v-1.raw"] {
		t.Errorf("not deleted: %+v", a)
	}
	if a := del(spec.Items[0].To); !a.Done {
		t.Errorf("what is gone is done: %+v", a)
	}
}

// What this host's hypervisor cannot do is refused before anything is written down.
func TestUnsupported(t *testing.T) {
	r := start(t, &disks{})
	for _, s := range []command.Spec{{V: 1, Kind: command.Migrate}, {V: 2, Kind: command.Copy}, {V: 1, Kind: "x"}, {V: 1, Kind: command.Copy}} {
		if err := r.x.Start(t.Context(), "c1", s); err == nil {
			t.Errorf("%+v was taken", s)
		}
	}
	if len(r.j.All()) > 0 {
		t.Error("something is in the journal")
	}
}
