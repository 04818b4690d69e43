// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
)

// script is a connection on which all that comes is known before, some bytes at a time.
type script struct {
	net.Conn
	in     io.Reader
	writes [][]byte
	until  []time.Time // read deadlines that were set
}

func (s *script) Read(b []byte) (int, error) { return s.in.Read(b) }
func (s *script) Write(b []byte) (int, error) {
	s.writes = append(s.writes, bytes.Clone(b))
	return len(b), nil
}
func (s *script) SetWriteDeadline(time.Time) error  { return nil }
func (s *script) SetReadDeadline(t time.Time) error { s.until = append(s.until, t); return nil }

// few returns what is read in small pieces.
type few struct{ io.Reader }

func (f few) Read(b []byte) (int, error) { return f.Reader.Read(b[:min(len(b), 1000)]) }

func list(n int) *agentpb.Down {
	return &agentpb.Down{Frame: &agentpb.Down_NewList{NewList: &agentpb.List{Hash: strings.Repeat("x", n)}}}
}

// Frames of all sizes come as they were sent, one write each.
func TestFrames(t *testing.T) {
	out := &script{}
	sizes := []int{0, 1, 100, small - 20, small, 3 * small, pooled + 1, Max - 20}
	for _, n := range sizes {
		if err := New(out).Write(list(n)); err != nil {
			t.Fatal(err)
		}
	}
	if len(out.writes) != len(sizes) {
		t.Errorf("%d writes for %d frames", len(out.writes), len(sizes))
	}
	if err := New(out).Write(list(Max)); !errors.Is(err, ErrTooLarge) || len(out.writes) != len(sizes) {
		t.Errorf("beyond the limit: %v, %d writes", err, len(out.writes))
	}
	all := bytes.Join(out.writes, nil)
	c := New(&script{in: few{bytes.NewReader(all)}})
	for i, n := range sizes {
		var d agentpb.Down
		if size, err := c.Read(&d); err != nil || !proto.Equal(&d, list(n)) || size != len(out.writes[i])-header {
			t.Fatalf("frame of %d: %d bytes, %v", n, size, err)
		}
	}
	if _, err := c.Read(&agentpb.Down{}); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	for _, cut := range []int{1, 3, header, header + 1} {
		if _, err := New(&script{in: bytes.NewReader(out.writes[2][:cut])}).Read(&agentpb.Down{}); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("after %d bytes: %v", cut, err)
		}
	}
}

// What is no frame is said to be none before anything is made of it.
func TestNoFrames(t *testing.T) {
	var many []byte
	for range MaxParts + 1 {
		many = protowire.AppendBytes(protowire.AppendTag(many, 1, protowire.BytesType), nil)
	}
	many = protowire.AppendBytes(protowire.AppendTag(nil, 5, protowire.BytesType), many) // new_list.workers
	framed := func(b []byte) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...) }
	for name, c := range map[string]struct {
		bytes []byte
		want  error
	}{
		"length beyond the limit": {binary.BigEndian.AppendUint32(nil, Max+1), ErrTooLarge},
		"the largest length":      {[]byte{255, 255, 255, 255}, ErrTooLarge},
		"nothing":                 {framed(nil), ErrMalformed},
		"no protobuf":             {framed([]byte{0xff}), ErrMalformed},
		"much that is none":       {framed(bytes.Repeat([]byte{0xff}, 2*MaxParts)), ErrMalformed},
		"too many parts":          {framed(many), ErrTooMany},
	} {
		if _, err := New(&script{in: bytes.NewReader(c.bytes)}).Read(&agentpb.Down{}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// Who announces a large frame and sends little of it makes the other side keep little, and not
// for longer than the limit.
func TestHalfFramesAreCheap(t *testing.T) {
	const times, sent = 200, 6 << 10
	half := append(binary.BigEndian.AppendUint32(nil, Max), make([]byte, sent)...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began := time.Now()
	for range times {
		s := &script{in: bytes.NewReader(half)}
		if _, err := New(s).Read(&agentpb.Down{}); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
		if len(s.until) != 1 || s.until[0].Before(began) || s.until[0].After(time.Now().Add(largeLimit)) {
			t.Fatalf("read deadlines %v, want one", s.until)
		}
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / times; each > 8*sent {
		t.Errorf("%d bytes for each half frame, of which %d were sent", each, sent)
	}
}

// timed is a connection whose writes take their time; with a deadline, or not.
type timed struct {
	net.Conn
	mu    sync.Mutex
	until time.Time
	loose int // writes that were without a deadline at their beginning or end
}

func (c *timed) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until = t
	return nil
}

func (c *timed) Write(b []byte) (int, error) {
	for range 2 {
		c.mu.Lock()
		if c.until.IsZero() {
			c.loose++
		}
		c.mu.Unlock()
		runtime.Gosched()
	}
	return len(b), nil
}

// Each write has its deadline for as long as it takes, whoever else writes; none is left behind,
// which would wake the process when nothing happens.
func TestDeadlinesOfWrites(t *testing.T) {
	at := &timed{}
	conn := New(at)
	var work sync.WaitGroup
	for range 8 {
		work.Go(func() {
			for range 200 {
				if err := conn.Write(list(10)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	work.Wait()
	if at.loose > 0 || !at.until.IsZero() {
		t.Errorf("%d looks found a write without a deadline; left behind: %v", at.loose, at.until)
	}
}
