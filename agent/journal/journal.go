// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/command"
)

const (
	suffix = ".json"
	aside  = "aside"
	// again begins the names of files that one command after the other has; so many are kept
	// for the next.
	again  = "again-"
	spares = 16
	// maxSteps bounds an entry: a command has a dozen steps, one that is found again by
	// every new process some more.
	maxSteps = 1000
)

// ErrKnown says that a command of this id is in the journal already: it is not begun twice.
var ErrKnown = errors.New("known already")

// Problem is a file that was set aside.
type Problem struct {
	File string // as it is called now, below the journal's directory
	Why  string
}

// Journal is one directory. Make it with Open.
type Journal struct {
	dir           string
	boot, process string
	now           func() time.Time
	told          func(took time.Duration) // of each step; nil: nobody counts
	flush         func(f *os.File) error   // makes durable what was written

	naming sync.Mutex // held while a file gets another name

	mu       sync.Mutex // held over no access to the disk
	entries  map[string]*slot
	spares   []string // names of files of forgotten commands
	problems []Problem
	changed  chan struct{}       // closed at the next change
	writing  map[*slot]time.Time // since when writes are under way
}

// slot is one command; its lock is held over a write, so that steps get their order. Who
// reads takes what is shown, and waits for no write.
type slot struct {
	mu    sync.Mutex
	entry Entry
	path  string   // of the file
	file  *os.File // open for the next step; nil: it is opened for that
	size  int64    // of its whole lines, bytes
	sum   string   // of the last one
	torn  bool     // a write failed: what the file holds is not known, it is written anew as a whole
	gone  bool     // was forgotten
	shown atomic.Pointer[durable]
}

// durable is what the disk has of a command; it is never changed, only replaced. nil: its
// first step is not durable yet, or it was forgotten.
type durable struct {
	entry Entry
	size  int64
}

// show tells what the entry is now; called with the slot's lock held.
func (s *slot) show() { s.shown.Store(&durable{s.entry, s.size}) }

// Progress is how far a command is.
type Progress struct {
	Kind  command.Kind
	State command.State
}

// Summary is how much there is in a journal.
type Summary struct {
	Files    int
	Bytes    int64 // of their steps
	Commands map[Progress]int
}

// Summary counts what is in the journal. It waits for no write that is under way.
func (j *Journal) Summary() Summary {
	j.mu.Lock()
	all := slices.Collect(maps.Values(j.entries))
	j.mu.Unlock()
	out := Summary{Commands: map[Progress]int{}}
	for _, s := range all {
		if x := s.shown.Load(); x != nil { // nil: its first step is not durable yet
			out.Files++
			out.Bytes += x.size
			out.Commands[Progress{x.entry.Spec.Kind, x.entry.Last().State}]++
		}
	}
	return out
}

// OnWrite has each step told that is made durable, with the time that took. Call it before
// the journal is used by several.
func (j *Journal) OnWrite(told func(took time.Duration)) { j.told = told }

// SyncWith has another function make durable what was written to a file: tests have disks
// that hang. Call it before the journal is used by several.
func (j *Journal) SyncWith(sync func(f *os.File) error) { j.flush = sync }

// Writing is since when the oldest of the writes that are under way is; zero: there is none.
func (j *Journal) Writing() (since time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, t := range j.writing {
		if since.IsZero() || t.Before(since) {
			since = t
		}
	}
	return since
}

// writes notes that a write of an entry is under way, until done is called.
func (j *Journal) writes(s *slot) (done func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.writing[s] = j.now()
	return func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		delete(j.writing, s)
	}
}

// Open reads the directory, which it creates if it is missing, sets aside what is no
// entry, and marks what this process finds unfinished: boot and process are this
// process's own. An error means that the directory cannot be used at all.
func Open(dir, boot, process string) (*Journal, error) {
	j := &Journal{dir: dir, boot: boot, process: process, now: time.Now, flush: fdatasync, entries: map[string]*slot{}, writing: map[*slot]time.Time{}, changed: make(chan struct{})}
	if err := os.MkdirAll(filepath.Join(dir, aside), 0o700); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	for _, f := range files {
		if f.Name() == aside && f.IsDir() {
			continue
		}
		if err := j.load(f); err != nil {
			if err := j.setAside(f.Name(), err); err != nil {
				return nil, err
			}
		}
	}
	for _, id := range j.ids() {
		if err := j.found(id); err != nil {
			return nil, err
		}
	}
	return j, nil
}

// load reads one file; an error says why it is no entry.
func (j *Journal) load(f fs.DirEntry) error {
	id, ok := strings.CutSuffix(f.Name(), suffix)
	reused := strings.HasPrefix(f.Name(), again)
	switch {
	case !f.Type().IsRegular():
		return fmt.Errorf("%w: not a file", errForeign)
	case reused:
	case strings.HasPrefix(f.Name(), "."):
		return fmt.Errorf("%w: a write that was not finished; the content before it counts", errTorn)
	case !ok || CheckID(id) != nil:
		return fmt.Errorf("%w: its name is not <command>%s", errForeign, suffix)
	}
	b, err := os.ReadFile(filepath.Join(j.dir, f.Name()))
	if err != nil {
		return fmt.Errorf("unreadable: %w", err)
	}
	if bytes.Equal(b, retired) {
		return j.keepSpare(f.Name())
	}
	e, sum, unfinished, err := decode(b)
	switch {
	case err != nil:
		return err
	case j.entries[e.ID] != nil:
		return fmt.Errorf("%w: command %q is here already", errForeign, e.ID)
	case !reused && e.ID != id:
		return fmt.Errorf("%w: it is of command %q", errForeign, e.ID)
	}
	s := &slot{entry: e, path: filepath.Join(j.dir, f.Name()), size: int64(len(bytes.TrimRight(b, "\x00")) - len(unfinished)), sum: sum}
	if len(unfinished) > 0 {
		if err := j.cutOff(s, unfinished); err != nil {
			return err
		}
	}
	s.show()
	j.entries[e.ID] = s
	return nil
}

// cutOff keeps what there is of a step whose write was not finished aside, and the entry
// without it.
func (j *Journal) cutOff(s *slot, unfinished []byte) error {
	to := j.asideName(filepath.Base(s.path) + ".step")
	if err := write(j.dir, to, unfinished); err != nil {
		return fmt.Errorf("keep an unfinished step: %w", err)
	}
	if err := s.cut(); err != nil {
		return fmt.Errorf("cut an unfinished step off: %w", err)
	}
	j.problems = append(j.problems, Problem{File: to, Why: fmt.Sprintf("%v: a step of command %s whose write was not finished; the %d before it count", errTorn, s.entry.ID, len(s.entry.Steps))})
	return nil
}

// asideName is a free name for what is set aside.
func (j *Journal) asideName(name string) string {
	return filepath.Join(aside, strings.TrimLeft(filepath.Base(name), ".")+"."+j.now().UTC().Format("20060102T150405.000000000"))
}

// setAside moves a file out of the way.
func (j *Journal) setAside(name string, why error) error {
	to := j.asideName(name)
	if err := os.Rename(filepath.Join(j.dir, name), filepath.Join(j.dir, to)); err != nil {
		return fmt.Errorf("set journal file %s aside (%w): %w", name, why, err)
	}
	j.problems = append(j.problems, Problem{File: to, Why: why.Error()})
	return syncDir(j.dir)
}

// found marks an entry that an earlier process has left: bound to that process it is
// interrupted; in the backend it may still go on, it is dangling.
func (j *Journal) found(id string) error {
	last := j.entries[id].entry.Last()
	if last.Process == j.process || last.Terminal() {
		return nil
	}
	how := "agent process " + j.process
	if last.Boot != j.boot {
		how = "boot " + j.boot
	}
	switch last.State {
	case command.Started, command.Processing:
		return j.Step(id, command.Interrupted, fmt.Sprintf("%s found it at: %s", how, last.What))
	case command.Backend:
		return j.Step(id, command.Dangling, fmt.Sprintf("%s found it at: %s", how, last.What))
	}
	return nil // found by an earlier process already
}

// Problems are the files that were set aside when the journal was opened.
func (j *Journal) Problems() []Problem { return slices.Clone(j.problems) }

// Begin writes down a command before anything is done about it. ErrKnown: it is here
// already, nothing was changed.
func (j *Journal) Begin(id string, spec command.Spec, what string) error {
	if err := CheckID(id); err != nil {
		return err
	}
	j.mu.Lock()
	if j.entries[id] != nil {
		j.mu.Unlock()
		return fmt.Errorf("begin command %s: %w", id, ErrKnown)
	}
	s := &slot{entry: Entry{V: Version, ID: id, Spec: spec}, path: filepath.Join(j.dir, id+suffix)}
	s.mu.Lock()
	j.entries[id] = s
	j.mu.Unlock()
	err := j.append(s, command.Started, what, "")
	s.gone = err != nil
	s.mu.Unlock()
	if err != nil {
		j.mu.Lock()
		delete(j.entries, id)
		j.mu.Unlock()
		return errors.Join(err, j.remove(s)) // it may be there all the same
	}
	j.tell()
	return nil
}

// Step adds a step to a command; it is durable when Step returns nil. After an error the
// step counts as not taken: whoever meant to act on it must not.
func (j *Journal) Step(id string, state command.State, what string) error {
	return j.StepRan(id, state, what, "")
}

// StepRan is Step with what the instance was seen to do.
func (j *Journal) StepRan(id string, state command.State, what, ran string) error {
	s := j.slot(id)
	if s == nil {
		return fmt.Errorf("step of command %s: not in the journal", id)
	}
	s.mu.Lock()
	err := j.append(s, state, what, ran)
	s.mu.Unlock()
	if err == nil {
		j.tell()
	}
	return err
}

// append is called with the slot's lock held.
func (j *Journal) append(s *slot, state command.State, what, ran string) error {
	e := s.entry
	switch {
	case s.gone:
		return fmt.Errorf("step of command %s: forgotten", e.ID)
	case e.Last().Terminal():
		return fmt.Errorf("step of command %s: it has ended as %s", e.ID, e.Last().State)
	case len(e.Steps) >= maxSteps:
		return fmt.Errorf("step of command %s: it has %d steps, at most %d are kept", e.ID, len(e.Steps), maxSteps)
	}
	step := command.JournalStep{
		V: command.Version, Seq: len(e.Steps) + 1, At: j.now().UTC().Round(0), State: state, Boot: j.boot, Process: j.process, What: what, Ran: ran,
	}
	e.Steps = append(slices.Clip(e.Steps), step)
	defer j.writes(s)()
	began := time.Now()
	if err := j.put(s, e, step); err != nil {
		return fmt.Errorf("write journal of command %s: %w", e.ID, err)
	}
	if j.told != nil {
		j.told(time.Since(began))
	}
	s.entry = e
	s.show()
	if step.Terminal() {
		_ = s.shut() // all of it is durable
	}
	return nil
}

// put makes the entry with one more step durable: with one sync of the file, unless a write
// of it has failed before.
func (j *Journal) put(s *slot, e Entry, step command.JournalStep) error {
	line, sum, err := encodeStep(step, s.sum)
	if step.Seq == 1 || s.torn {
		line, sum, err = encode(e)
	}
	if err != nil {
		return err
	}
	switch {
	case s.torn:
		if err := write(j.dir, filepath.Base(s.path), line); err != nil {
			return err
		}
		s.torn, s.size = false, 0
	case step.Seq == 1:
		if err := j.create(s, line); err != nil {
			return err
		}
	default:
		if err := j.writeNext(s, line); err != nil {
			s.torn = true
			return errors.Join(err, s.cut()) // so that, if this process ends, no step is found that was not taken
		}
	}
	s.size, s.sum = s.size+int64(len(line)), sum
	return nil
}

// Forget deletes a command that has ended and is on record at the worker up to step seq.
// One that is unknown is forgotten already. It refuses one that has not ended, or has
// steps that the worker did not speak of.
func (j *Journal) Forget(id string, seq int) error {
	s := j.slot(id)
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.entry.Steps); n > seq {
		return fmt.Errorf("forget command %s: it has %d steps, the worker knows %d", id, n, seq)
	}
	if s.gone {
		return nil
	}
	defer j.writes(s)()
	if err := errors.Join(s.shut(), j.retire(s)); err != nil {
		return fmt.Errorf("forget command %s: %w", id, err)
	}
	s.gone = true
	s.shown.Store(nil)
	j.mu.Lock()
	delete(j.entries, id)
	j.mu.Unlock()
	return nil
}

// Get returns one entry, as far as it is durable. It waits for no write that is under way.
func (j *Journal) Get(id string) (Entry, bool) {
	s := j.slot(id)
	if s == nil {
		return Entry{}, false
	}
	x := s.shown.Load()
	if x == nil {
		return Entry{}, false
	}
	return x.entry, true
}

// All returns every entry, by id, as far as it is durable; ids are made of time, so the
// oldest is first. It waits for no write that is under way.
func (j *Journal) All() []Entry {
	var out []Entry
	for _, id := range j.ids() {
		if e, ok := j.Get(id); ok {
			out = append(out, e)
		}
	}
	return out
}

// Changed returns a channel that is closed when a step was added after the call.
func (j *Journal) Changed() <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.changed
}

func (j *Journal) tell() {
	j.mu.Lock()
	defer j.mu.Unlock()
	close(j.changed)
	j.changed = make(chan struct{})
}

func (j *Journal) slot(id string) *slot {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.entries[id]
}

func (j *Journal) ids() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := make([]string, 0, len(j.entries))
	for id := range j.entries {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}
