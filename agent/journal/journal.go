// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/command"
)

const (
	suffix = ".json"
	aside  = "aside"
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

	mu       sync.Mutex
	entries  map[string]*slot
	problems []Problem
	changed  chan struct{} // closed at the next change
}

// slot is one command; its lock is held over a write, so that steps get their order.
type slot struct {
	mu    sync.Mutex
	entry Entry
	gone  bool // was forgotten
}

// Open reads the directory, which it creates if it is missing, sets aside what is no
// entry, and marks what this process finds unfinished: boot and process are this
// process's own. An error means that the directory cannot be used at all.
func Open(dir, boot, process string) (*Journal, error) {
	j := &Journal{dir: dir, boot: boot, process: process, now: time.Now, entries: map[string]*slot{}, changed: make(chan struct{})}
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
	switch {
	case !f.Type().IsRegular():
		return fmt.Errorf("%w: not a file", errForeign)
	case strings.HasPrefix(f.Name(), "."):
		return fmt.Errorf("%w: a write that was not finished; the content before it counts", errTorn)
	case !ok || CheckID(id) != nil:
		return fmt.Errorf("%w: its name is not <command>%s", errForeign, suffix)
	}
	b, err := os.ReadFile(filepath.Join(j.dir, f.Name()))
	if err != nil {
		return fmt.Errorf("unreadable: %w", err)
	}
	e, err := decode(b, id)
	if err != nil {
		return err
	}
	j.entries[id] = &slot{entry: e}
	return nil
}

// setAside moves a file out of the way, under a name that is free.
func (j *Journal) setAside(name string, why error) error {
	to := filepath.Join(aside, strings.TrimLeft(name, ".")+"."+j.now().UTC().Format("20060102T150405.000000000"))
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
	s := &slot{entry: Entry{V: Version, ID: id, Spec: spec}}
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
		// The rename may have been done and only its sync failed.
		return errors.Join(err, j.remove(id))
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
	e.Steps = append(slices.Clip(e.Steps), command.JournalStep{
		V: command.Version, Seq: len(e.Steps) + 1, At: j.now().UTC().Round(0), State: state, Boot: j.boot, Process: j.process, What: what, Ran: ran,
	})
	b, err := encode(e)
	if err != nil {
		return err
	}
	if err := write(j.dir, e.ID+suffix, b); err != nil {
		return fmt.Errorf("write journal of command %s: %w", e.ID, err)
	}
	s.entry = e
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
	if err := j.remove(id); err != nil {
		return err
	}
	s.gone = true
	j.mu.Lock()
	delete(j.entries, id)
	j.mu.Unlock()
	return nil
}

func (j *Journal) remove(id string) error {
	if err := os.Remove(filepath.Join(j.dir, id+suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget command %s: %w", id, err)
	}
	return syncDir(j.dir)
}

// Get returns one entry.
func (j *Journal) Get(id string) (Entry, bool) {
	s := j.slot(id)
	if s == nil {
		return Entry{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.entry, !s.gone
}

// All returns every entry, by id; ids are made of time, so the oldest is first.
func (j *Journal) All() []Entry {
	var out []Entry
	for _, id := range j.ids() {
		if e, ok := j.Get(id); ok && len(e.Steps) > 0 {
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

// write replaces a file: durable, whole or not at all.
func write(dir, name string, content []byte) error {
	temp := filepath.Join(dir, "."+name)
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(temp, filepath.Join(dir, name))
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
