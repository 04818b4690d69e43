// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
	whole, _, err := encode(Entry{V: 1, ID: id, Spec: spec, Steps: []command.JournalStep{{Seq: 1, State: command.Started}}})
	must(t, err)
	newer, _, err := encode(Entry{V: 2, ID: id, Spec: spec, Steps: []command.JournalStep{{Seq: 1, State: command.Started}}})
	must(t, err)
	gap, _, err := encode(Entry{V: 1, ID: id, Spec: spec, Steps: []command.JournalStep{{Seq: 2, State: command.Started}}})
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
		"null": {id + ".json", []byte("null\n"), errForeign}, "another's": {"other.json", whole, errForeign}, "unfinished": {"." + id + ".json", whole, errTorn}, "gap": {id + ".json", gap, errForeign},
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
	full := errors.New("no room")
	j.SyncWith(func(*os.File) error { return full })
	if err := j.Step(id, command.Processing, "copying"); !errors.Is(err, full) {
		t.Fatalf("a step without a disk: %v", err)
	}
	if err := j.Begin("other", spec, "taken"); !errors.Is(err, full) {
		t.Fatalf("begun without a disk: %v", err)
	}
	if e, ok := open(t, dir, "b1", "p1").Get(id); !ok || len(e.Steps) != 1 {
		t.Errorf("the disk has %d steps, want 1", len(e.Steps))
	}
	j.SyncWith(fdatasync)
	must(t, j.Step(id, command.Processing, "copying"))
	if e, _ := open(t, dir, "b1", "p1").Get(id); len(e.Steps) != 2 {
		t.Errorf("%d steps, want 2", len(e.Steps))
	}
	must(t, j.Begin("other", spec, "taken"))
	must(t, os.Rename(dir, dir+".gone"))
	if err := j.Begin("third", spec, "taken"); err == nil {
		t.Fatal("begun without a directory")
	}
}

// A file that somebody has deleted takes no step: nobody would find it again. The next step
// writes all of it anew.
func TestADeletedFileTakesNoStep(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, "b1", "p1")
	must(t, j.Begin(id, spec, "taken"))
	must(t, os.Remove(filepath.Join(dir, id+".json")))
	if err := j.Step(id, command.Processing, "copying"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a step into nothing: %v", err)
	}
	must(t, j.Step(id, command.Processing, "copying"))
	if e, _ := open(t, dir, "b1", "p1").Get(id); len(e.Steps) != 2 {
		t.Errorf("%d steps, want 2", len(e.Steps))
	}
}

// Who reads waits for no write, and sees what is durable, however long the disk takes.
func TestReadingWaitsForNoWrite(t *testing.T) {
	j := open(t, t.TempDir(), "b1", "p1")
	must(t, j.Begin(id, spec, "taken"))
	must(t, j.Begin("ended", spec, "taken"))
	must(t, j.Step("ended", command.Completed, "copied"))
	in, disk := make(chan struct{}), make(chan struct{})
	j.SyncWith(func(f *os.File) error {
		in <- struct{}{}
		<-disk
		return f.Sync()
	})
	var writes sync.WaitGroup
	writes.Go(func() { must(t, j.Step(id, command.Processing, "copying")) })
	writes.Go(func() { must(t, j.Begin("new", spec, "taken")) })
	writes.Go(func() { must(t, j.Forget("ended", 2)) })
	for range 3 {
		<-in
	}
	all := j.All()
	if len(all) != 2 || len(all[0].Steps) != 1 || len(all[1].Steps) != 2 || j.Summary().Files != 2 || j.Writing().IsZero() {
		t.Errorf("while the disk hangs: %+v; %+v; writing since %v", all, j.Summary(), j.Writing())
	}
	if _, ok := j.Get("new"); ok {
		t.Error("a command is there whose first step is not durable")
	}
	close(disk)
	writes.Wait()
	if all = j.All(); len(all) != 2 || len(all[0].Steps) != 2 || all[1].ID != "new" || !j.Writing().IsZero() {
		t.Errorf("after that: %+v; writing since %v", all, j.Writing())
	}
	must(t, j.Forget("ended", 2))
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
	whole, sum, err := encode(Entry{V: 1, ID: id, Spec: spec, Steps: []command.JournalStep{{Seq: 1, State: command.Started}}})
	must(f, err)
	f.Add(whole)
	f.Add(whole[:40])
	f.Add([]byte(`{"sha256":"x","entry":{"v":9}}`))
	f.Add([]byte("null"))
	line, _, err := encodeStep(command.JournalStep{Seq: 2, State: command.Processing}, sum)
	must(f, err)
	f.Add(append(slices.Clip(whole), line...))
	f.Add(append(slices.Clip(whole), line[:20]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, id+".json"), b, 0o600))
		j := open(t, dir, "b1", "p1")
		e, ok := j.Get(id)
		var aside, file []byte
		for _, p := range j.Problems() {
			part, err := os.ReadFile(filepath.Join(dir, p.File))
			must(t, err)
			aside = append(aside, part...)
		}
		if ok {
			var err error
			file, err = os.ReadFile(filepath.Join(dir, id+".json"))
			must(t, err)
		} else if len(j.Problems()) != 1 {
			t.Fatalf("no entry, problems %v", j.Problems())
		}
		b, aside = bytes.TrimRight(b, "\x00"), bytes.TrimRight(aside, "\x00") // room
		whole, cutOff := bytes.CutSuffix(b, aside)
		if !cutOff || !bytes.HasPrefix(file, whole) {
			t.Fatalf("of %q, aside are %q, the file is %q", b, aside, file)
		}
		if ok {
			again, _, err := encode(e)
			must(t, err)
			if _, _, _, err := decode(again); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// What is written is read, and of any prefix of it, which is what a crash leaves, the steps
// that are whole: they are all that was ever acted on.
func TestEveryPrefixIsTheStepsBeforeIt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 3).Draw(t, "steps at once")
		e := Entry{V: 1, ID: id, Spec: spec}
		draw := func() command.JournalStep {
			return command.JournalStep{Seq: len(e.Steps) + 1, State: rapid.SampledFrom(command.States).Draw(t, "state"), What: rapid.String().Draw(t, "what")}
		}
		for range n {
			e.Steps = append(e.Steps, draw())
		}
		file, sum, err := encode(e)
		if err != nil {
			t.Fatal(err)
		}
		ends := []int{len(file)} // of lines
		for range rapid.IntRange(0, 4).Draw(t, "more steps") {
			s := draw()
			var line []byte
			if line, sum, err = encodeStep(s, sum); err != nil {
				t.Fatal(err)
			}
			e.Steps = append(e.Steps, s)
			file = append(file, line...)
			ends = append(ends, len(file))
		}
		cut := rapid.IntRange(0, len(file)).Draw(t, "cut")
		whole := 0
		for _, end := range ends {
			if end <= cut {
				whole++
			}
		}
		got, _, unfinished, err := decode(file[:cut])
		switch {
		case whole == 0 && err == nil:
			t.Fatal("an entry without a whole line")
		case whole > 0 && (err != nil || len(got.Steps) != n+whole-1 || len(unfinished) != cut-ends[whole-1]):
			t.Fatalf("%d whole lines: %d steps, %d bytes unfinished, %v", whole, len(got.Steps), len(unfinished), err)
		}
	})
}

// A step that a crash has torn lies aside and is reported; the entry goes on without it.
func TestATornStepIsCutOff(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, "b1", "p1")
	must(t, j.Begin(id, spec, "taken"))
	must(t, j.Step(id, command.Backend, "moving"))
	file := filepath.Join(dir, id+".json")
	b, err := os.ReadFile(file)
	must(t, err)
	must(t, os.WriteFile(file, append(bytes.TrimRight(b, "\x00"), `{"sha256":"12`...), 0o600))
	again := open(t, dir, "b2", "p2")
	p := again.Problems()
	if len(p) != 1 || !strings.Contains(p[0].Why, "not finished") {
		t.Fatalf("problems %v, want one", p)
	}
	if kept, err := os.ReadFile(filepath.Join(dir, p[0].File)); err != nil || string(kept) != `{"sha256":"12` {
		t.Errorf("set aside: %q (%v)", kept, err)
	}
	if e, _ := again.Get(id); len(e.Steps) != 3 || e.Last().State != command.Dangling {
		t.Errorf("the entry became %+v", e.Steps)
	}
	third := open(t, dir, "b2", "p2")
	if e, _ := third.Get(id); len(e.Steps) != 3 || len(third.Problems()) > 0 {
		t.Errorf("found again: %+v, %v", e.Steps, third.Problems())
	}
}

// A line of another file, or a step that was taken out, is noticed.
func TestLinesAreChained(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, "b1", "p1")
	must(t, j.Begin(id, spec, "taken"))
	must(t, j.Step(id, command.Processing, "one"))
	must(t, j.Step(id, command.Backend, "two"))
	b, err := os.ReadFile(filepath.Join(dir, id+".json"))
	must(t, err)
	lines := strings.SplitAfter(string(b), "\n")
	must(t, os.WriteFile(filepath.Join(dir, id+".json"), []byte(lines[0]+lines[2]), 0o600))
	if p := open(t, dir, "b1", "p1").Problems(); len(p) != 1 || !strings.Contains(p[0].Why, errTorn.Error()) {
		t.Errorf("problems %v, want one", p)
	}
}

// The file of a forgotten command is the next one's; what is left of them is no problem.
func TestFilesAreUsedAgain(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, "b1", "p1")
	for n := range 40 {
		id := fmt.Sprintf("c%02d", n)
		must(t, j.Begin(id, spec, "taken"))
		must(t, j.Step(id, command.Completed, strings.Repeat("x", n*500))) // some are larger than their room
		if n%2 == 1 {
			must(t, j.Forget(id, 2))
		}
		if n%10 == 9 {
			j = open(t, dir, "b1", "p1")
			if len(j.Problems()) > 0 || len(j.All()) != (n+1)/2 {
				t.Fatalf("after %d: %d entries, problems %v", n+1, len(j.All()), j.Problems())
			}
		}
	}
	if files, err := filepath.Glob(filepath.Join(dir, "*[0-9]*")); err != nil || len(files) != 21 {
		t.Errorf("%d files (%v), want 21: of 20 entries, and one for the next", len(files), err)
	}
}

// The name of a file that was used before says nothing: what it holds counts, once.
func TestAnEntryInAFileOfAnother(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, "b1", "p1")
	must(t, j.Begin(id, spec, "taken"))
	must(t, os.Rename(filepath.Join(dir, id+".json"), filepath.Join(dir, "again-17")))
	again := open(t, dir, "b1", "p1")
	if e, ok := again.Get(id); !ok || e.Last().State != command.Started || len(again.Problems()) > 0 {
		t.Fatalf("found %v %+v, %v", ok, e, again.Problems())
	}
	must(t, again.Step(id, command.Completed, "done"))
	if e, _ := open(t, dir, "b1", "p1").Get(id); len(e.Steps) != 2 {
		t.Errorf("%d steps, want 2", len(e.Steps))
	}
}

// "Journal write ≤ 1.2 × one fsync" (tests/perf has the row): against one write and one
// sync of a file that has its room already.
func BenchmarkWrite(b *testing.B) {
	b.Run("journal", func(b *testing.B) {
		j := open(b, b.TempDir(), "b1", "p1")
		for n := 0; b.Loop(); n++ {
			id := fmt.Sprintf("c%d", n/6)
			switch n % 6 {
			case 0:
				must(b, j.Begin(id, spec, "taken"))
			case 5:
				must(b, j.Step(id, command.Completed, "copied"))
				b.StopTimer()
				must(b, j.Forget(id, 6))
				b.StartTimer()
			default:
				must(b, j.Step(id, command.Processing, "copying"))
			}
		}
	})
	b.Run("fsync", func(b *testing.B) {
		f, err := os.Create(filepath.Join(b.TempDir(), "f"))
		must(b, err)
		defer f.Close()
		content := make([]byte, room)
		for b.Loop() {
			_, err := f.WriteAt(content[:300], 0)
			must(b, err)
			must(b, f.Sync())
		}
	})
}
