// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/holdfast-ha/holdfast/coordinator/command"
)

const id = "0198c1d2-7f6a-7c11-9a53-1f2e3d4c5b6a"

var spec = command.Spec{V: 1, Kind: command.Copy, Items: []command.Item{{Volume: "v7", Format: "raw", From: command.Ref{Pool: "a", Path: "v7"}, To: command.Ref{Pool: "b", Path: "v7-x.raw"}, Temporary: ".v7-x.raw.part"}}}

func open(t testing.TB, dir, boot, process string) *Journal {
	t.Helper()
	j, err := Open(dir, boot, process)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// "A journal record outlives every process": what was written is found, with its names.
func TestWhatIsWrittenIsFound(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, "b1", "p1")
	must(t, j.Begin(id, spec, "taken"))
	must(t, j.Step(id, command.Processing, "copying"))
	again := open(t, dir, "b1", "p1")
	e, ok := again.Get(id)
	if !ok || e.Last().State != command.Processing || e.Last().Seq != 2 {
		t.Fatalf("found %+v", e)
	}
	if d := cmp.Diff(spec, e.Spec); d != "" {
		t.Error(d)
	}
	if len(again.Problems()) > 0 {
		t.Errorf("problems: %v", again.Problems())
	}
}

// "INTERRUPTED (new process or boot id found a PROCESSING entry) · DANGLING (… a
// PROCESSING_IN_BACKEND entry)"; R5: STARTED is mapped too. The same process changes
// nothing (R4).
func TestANewProcessMarksWhatItFinds(t *testing.T) {
	for _, c := range []struct{ was, is command.State }{
		{command.Started, command.Interrupted}, {command.Processing, command.Interrupted}, {command.Backend, command.Dangling},
		{command.Completed, command.Completed}, {command.Failed, command.Failed}, {command.Interrupted, command.Interrupted}, {command.Dangling, command.Dangling},
	} {
		for _, boot := range []string{"b1", "b2"} {
			dir := t.TempDir()
			j := open(t, dir, "b1", "p1")
			must(t, j.Begin(id, spec, "taken"))
			if c.was != command.Started {
				must(t, j.Step(id, c.was, "x"))
			}
			e, _ := open(t, dir, boot, "p2").Get(id)
			if e.Last().State != c.is {
				t.Errorf("%s found by boot %s became %s, want %s", c.was, boot, e.Last().State, c.is)
			}
			if n := len(e.Steps); n > 3 {
				t.Errorf("%d steps", n)
			}
		}
	}
}

// "Delete before the acknowledgement" was R12: only what the worker knows to its end goes.
func TestForgetNeedsTheWholeStory(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, "b1", "p1")
	must(t, j.Begin(id, spec, "taken"))
	must(t, j.Step(id, command.Completed, "done"))
	if err := j.Forget(id, 1); err == nil {
		t.Error("forgot a step that the worker does not have")
	}
	must(t, j.Forget(id, 2))
	must(t, j.Forget(id, 2))
	if _, ok := open(t, dir, "b1", "p2").Get(id); ok {
		t.Error("a forgotten command is found again")
	}
}

// A command that is here is not begun twice, and one that has ended takes no step.
func TestNothingTwice(t *testing.T) {
	j := open(t, t.TempDir(), "b1", "p1")
	must(t, j.Begin(id, spec, "taken"))
	if err := j.Begin(id, spec, "taken"); !errors.Is(err, ErrKnown) {
		t.Errorf("begun twice: %v", err)
	}
	must(t, j.Step(id, command.Failed, "no"))
	if err := j.Step(id, command.Completed, "yes"); err == nil {
		t.Error("an end was changed")
	}
	if err := j.Begin("../x", spec, ""); err == nil {
		t.Error("an id that is a path was taken")
	}
}

// "Torn, truncated, foreign, newer version: reported and set aside, never fatal, never
// silently dropped."
func TestDamagedFilesAreSetAside(t *testing.T) {
	whole, err := encode(Entry{V: 1, ID: id, Spec: spec, Steps: []command.JournalStep{{Seq: 1, State: command.Started}}})
	must(t, err)
	newer, err := encode(Entry{V: 2, ID: id, Spec: spec, Steps: []command.JournalStep{{Seq: 1, State: command.Started}}})
	must(t, err)
	gap, err := encode(Entry{V: 1, ID: id, Spec: spec, Steps: []command.JournalStep{{Seq: 2, State: command.Started}}})
	must(t, err)
	flipped := append([]byte(nil), whole...)
	flipped[len(flipped)/2] ^= 1
	for name, c := range map[string]struct {
		file    string
		content []byte
		why     error
	}{
		"truncated": {id + ".json", whole[:len(whole)-10], errTorn}, "empty": {id + ".json", nil, errTorn}, "flipped": {id + ".json", flipped, errTorn},
		"zeroes": {id + ".json", make([]byte, 512), errTorn}, "newer": {id + ".json", newer, errNewer}, "foreign": {"notes.txt", []byte("hello"), errForeign},
		"null": {id + ".json", []byte("null"), errForeign}, "another's": {"other.json", whole, errForeign}, "unfinished": {"." + id + ".json", whole, errTorn}, "gap": {id + ".json", gap, errForeign},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			good := open(t, dir, "b1", "p1")
			must(t, good.Begin("good", spec, "taken"))
			must(t, os.WriteFile(filepath.Join(dir, c.file), c.content, 0o600))
			j := open(t, dir, "b1", "p2")
			p := j.Problems()
			if len(p) != 1 || !strings.Contains(p[0].Why, c.why.Error()) {
				t.Fatalf("problems %v, want one: %v", p, c.why)
			}
			kept, err := os.ReadFile(filepath.Join(dir, p[0].File))
			if err != nil || string(kept) != string(c.content) {
				t.Errorf("set aside with other content: %v", err)
			}
			if _, ok := j.Get("good"); !ok {
				t.Error("a good entry beside it was lost")
			}
			if next := open(t, dir, "b1", "p3"); len(next.Problems()) > 0 {
				t.Errorf("reported again: %v", next.Problems())
			}
		})
	}
}

// A disk that takes nothing: the step counts as not taken, what was there stays.
func TestAFailedWriteIsNoStep(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "j")
	j := open(t, dir, "b1", "p1")
	must(t, j.Begin(id, spec, "taken"))
	must(t, os.Rename(dir, dir+".gone"))
	if err := j.Step(id, command.Processing, "copying"); err == nil {
		t.Fatal("a step without a disk")
	}
	if err := j.Begin("other", spec, "taken"); err == nil {
		t.Fatal("begun without a disk")
	}
	must(t, os.Rename(dir+".gone", dir))
	must(t, j.Step(id, command.Processing, "copying"))
	if e, _ := j.Get(id); len(e.Steps) != 2 {
		t.Errorf("%d steps, want 2", len(e.Steps))
	}
	must(t, j.Begin("other", spec, "taken"))
}

// Commands do not wait for each other's names, and steps keep their order.
func TestManyAtOnce(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, "b1", "p1")
	var all sync.WaitGroup
	for n := range 20 {
		all.Go(func() {
			id := fmt.Sprintf("c%d", n)
			if err := j.Begin(id, spec, "taken"); err != nil {
				t.Error(err)
			}
			for range 5 {
				if err := j.Step(id, command.Processing, "x"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if got := open(t, dir, "b1", "p1").All(); len(got) != 20 || len(got[7].Steps) != 6 {
		t.Errorf("%d entries", len(got))
	}
}

// Any bytes under any entry's name: never fatal, and never lost: either it is the entry,
// or it lies aside.
func FuzzFile(f *testing.F) {
	whole, err := encode(Entry{V: 1, ID: id, Spec: spec, Steps: []command.JournalStep{{Seq: 1, State: command.Started}}})
	must(f, err)
	f.Add(whole)
	f.Add(whole[:40])
	f.Add([]byte(`{"sha256":"x","entry":{"v":9}}`))
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, id+".json"), b, 0o600))
		j := open(t, dir, "b1", "p1")
		e, ok := j.Get(id)
		if ok == (len(j.Problems()) == 1) {
			t.Fatalf("entry %v and %d problems", ok, len(j.Problems()))
		}
		if ok {
			again, err := encode(e)
			must(t, err)
			if _, err := decode(again, id); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// What is encoded is decoded, and no proper prefix of it is.
func TestEveryPrefixIsTorn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := Entry{V: 1, ID: id, Spec: spec}
		for n := range rapid.IntRange(1, 5).Draw(t, "steps") {
			e.Steps = append(e.Steps, command.JournalStep{Seq: n + 1, State: rapid.SampledFrom(command.States).Draw(t, "state"), What: rapid.String().Draw(t, "what")})
		}
		b, err := encode(e)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decode(b, id); err != nil {
			t.Fatal(err)
		}
		if _, err := decode(b[:rapid.IntRange(0, len(b)-2).Draw(t, "cut")], id); err == nil {
			t.Fatal("a prefix was taken")
		}
	})
}

// "Journal write ≤ 1.2 × one fsync": against one durable replacement of a file of the
// same size by the plainest means, and against one fsync of it.
func BenchmarkWrite(b *testing.B) {
	content, err := encode(Entry{V: 1, ID: id, Spec: spec, Steps: make([]command.JournalStep, 6)})
	must(b, err)
	b.Run("journal", func(b *testing.B) {
		j := open(b, b.TempDir(), "b1", "p1")
		for n := 0; b.Loop(); n++ {
			if n%6 == 0 {
				must(b, j.Begin(fmt.Sprintf("c%d", n/6), spec, "taken"))
			}
			must(b, j.Step(fmt.Sprintf("c%d", n/6), command.Processing, "copying"))
		}
	})
	b.Run("fsync", func(b *testing.B) {
		f, err := os.Create(filepath.Join(b.TempDir(), "f"))
		must(b, err)
		defer f.Close()
		for b.Loop() {
			_, err := f.WriteAt(content, 0)
			must(b, err)
			must(b, f.Sync())
		}
	})
	b.Run("fsync-new", func(b *testing.B) {
		dir := b.TempDir()
		for n := 0; b.Loop(); n++ {
			f, err := os.Create(filepath.Join(dir, fmt.Sprint(n)))
			must(b, err)
			_, err = f.Write(content)
			must(b, err)
			must(b, f.Sync())
			must(b, f.Close())
		}
	})
}
