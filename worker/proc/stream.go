// SPDX-License-Identifier: Apache-2.0

package proc

import (
	"bytes"
	"context"
	"os"
	"strconv"
	"syscall"
	"time"
)

// stream is one pipe to or from a child, and the goroutine at our end of it.
type stream struct {
	ours, child *os.File
	text        []byte // to write, or
	kept        []byte // read so far, at most limit
	limit       int    // 0: a stream to the child
	over        bool   // it wrote more than limit
	full        chan struct{}
	done        chan struct{}
}

func newStream(limit int) (*stream, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s := &stream{ours: w, child: r, limit: limit, done: make(chan struct{}), full: make(chan struct{})}
	if limit > 0 {
		s.ours, s.child = r, w
	}
	return s, nil
}

// pump moves the text until it is done, the other end is gone, or finish ends it.
func (s *stream) pump() {
	defer close(s.done)
	if s.limit == 0 {
		_, _ = s.ours.Write(s.text) // a child that does not read its input says so in its answer
		_ = s.ours.Close()
		return
	}
	buf := make([]byte, 8<<10)
	for {
		n, err := s.ours.Read(buf)
		room := s.limit - len(s.kept)
		s.kept = append(s.kept, buf[:min(n, room)]...)
		if n > room && !s.over {
			s.over = true
			close(s.full)
		}
		if err != nil {
			return
		}
		if s.over {
			return // whoever writes on blocks until it is killed
		}
	}
}

// finish waits for the pump, until ctx ends at the latest, and closes our end.
func (s *stream) finish(ctx context.Context) {
	if s.limit > 0 { // nobody is left to read an input
		select {
		case <-s.done:
		case <-ctx.Done():
		}
	}
	_ = s.ours.SetDeadline(time.Now()) // an input that is written and closed has no deadline
	<-s.done
	_ = s.ours.Close()
}

func (s *stream) close() {
	_ = s.ours.Close()
	_ = s.child.Close()
}

// markName is the variable by which a child's descendants are known, also those that
// left its session.
const markName = "HOLDFAST_PROC"

// killMarked kills every process that carries the mark. A descendant that cleaned its
// environment as well as its session is out of reach: it no longer can be told from a stranger.
func killMarked(mark string) {
	want := []byte(markName + "=" + mark)
	for range 4 { // a child can fork between two looks
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return
		}
		found := false
		for _, e := range entries {
			pid, err := strconv.Atoi(e.Name())
			if err != nil || !marked(pid, want) {
				continue
			}
			// The handle is taken before the second look, so that the number cannot
			// have gone to another process in between.
			if p, err := os.FindProcess(pid); err == nil {
				if marked(pid, want) {
					found = p.Signal(syscall.SIGKILL) == nil || found
				}
				_ = p.Release()
			}
		}
		if !found {
			return
		}
	}
}

func marked(pid int, want []byte) bool {
	env, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil { // gone, or not ours
		return false
	}
	for v := range bytes.SplitSeq(env, []byte{0}) {
		if bytes.Equal(v, want) {
			return true
		}
	}
	return false
}
