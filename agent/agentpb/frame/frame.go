// SPDX-License-Identifier: Apache-2.0

// Package frame is how the messages of agentpb travel between an agent and a worker: each is
// a frame of its own, four bytes of length (the first the highest) and a protobuf message, straight
// on TLS, which both ends choose by ALPN (agents.md "Link"). What a connection costs is bounded
// here for both ends: a frame's length is looked at before anything is kept of it, what it would
// take decoded before it is, and an idle connection keeps no buffer.
//
// It says nothing of who may speak or what: worker/link and agent do.
package frame

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
)

const (
	// Protocol is what ALPN calls it.
	Protocol = "holdfast-link/1"
	// Preface are the first bytes of an agent without TLS, which is for loopback only, in the
	// place of ALPN.
	Preface = Protocol + "\n"
	// Max is the length of a message, in bytes.
	Max = 1 << 20
	// WriteLimit is how long the other side may take to make room for a frame.
	WriteLimit = 5 * time.Second

	header = 4
	// small frames are read whatever time they take: who stops in one holds no more than who
	// says nothing. A larger one has largeLimit from its length to its end.
	small      = 4 << 10
	largeLimit = 10 * time.Second
	// largest buffer that is kept for other frames.
	pooled = 64 << 10
)

// What is wrong with a frame.
var (
	ErrTooLarge  = errors.New("frame is too large")
	ErrTooMany   = errors.New("frame has too many parts")
	ErrMalformed = errors.New("bytes are no frame")
)

// Conn exchanges frames over a connection. One goroutine reads; any may write. A failed Write
// may leave half a frame behind: nothing follows it then, but for one of ErrTooLarge.
type Conn struct {
	net.Conn
	head  [header]byte
	write sync.Mutex // one writes, and the deadline is its own
}

// New makes one of a connection on which this protocol was chosen.
func New(c net.Conn) *Conn { return &Conn{Conn: c} }

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, small); return &b }}

func release(b *[]byte) {
	if cap(*b) <= pooled {
		*b = (*b)[:0]
		buffers.Put(b)
	}
}

// Read waits for the next frame, decodes it into m, which must be empty, and returns its length.
// Errors: the connection's, io.EOF at its end between two frames, or ErrTooLarge, ErrTooMany or
// ErrMalformed; nothing can be read after any of them.
func (c *Conn) Read(m proto.Message) (int, error) {
	for n := 0; n < header; {
		k, err := c.Conn.Read(c.head[n:])
		if n += k; err != nil && n < header {
			return 0, partly(n, err)
		}
	}
	size := binary.BigEndian.Uint32(c.head[:])
	switch {
	case size > Max:
		return 0, fmt.Errorf("%w: %d bytes, allowed are %d", ErrTooLarge, size, Max)
	case size == 0:
		return 0, fmt.Errorf("%w: it is empty", ErrMalformed)
	}
	return int(size), c.body(int(size), m)
}

// body reads a frame's message: the buffer grows with what has come, not with what was announced.
func (c *Conn) body(size int, m proto.Message) error {
	if size > small {
		if err := c.SetReadDeadline(time.Now().Add(largeLimit)); err != nil {
			return err
		}
	}
	p := buffers.Get().(*[]byte)
	defer release(p)
	b := *p
	for len(b) < size {
		if len(b) == cap(b) {
			b = slices.Grow(b, len(b))
		}
		k, err := c.Conn.Read(b[len(b):min(size, cap(b))])
		if b = b[:len(b)+k]; err != nil && len(b) < size {
			return partly(header+len(b), err)
		}
	}
	*p = b
	if size > small {
		if err := c.SetReadDeadline(time.Time{}); err != nil {
			return err
		}
	}
	if err := affordable(b, m); err != nil {
		return err
	}
	if err := proto.Unmarshal(b, m); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return nil
}

// partly says that a connection has ended within a frame.
func partly(n int, err error) error {
	if n == 0 {
		return err
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("connection ended after %d bytes of a frame: %w", n, err)
}

// Write sends a frame in one piece, within WriteLimit. Errors: ErrTooLarge, with which nothing
// was sent, or the connection's; os.ErrDeadlineExceeded: the other side made no room.
func (c *Conn) Write(m proto.Message) error {
	p := buffers.Get().(*[]byte)
	defer release(p)
	b, err := proto.MarshalOptions{}.MarshalAppend(append(*p, make([]byte, header)...), m)
	if err != nil {
		return fmt.Errorf("encode frame: %w", err)
	}
	*p = b
	size := len(b) - header
	if size > Max {
		return fmt.Errorf("%w: %d bytes, allowed are %d", ErrTooLarge, size, Max)
	}
	binary.BigEndian.PutUint32(b, uint32(size))
	c.write.Lock()
	defer c.write.Unlock()
	if err := c.SetWriteDeadline(time.Now().Add(WriteLimit)); err != nil {
		return err
	}
	if _, err := c.Conn.Write(b); err != nil {
		return err
	}
	return c.SetWriteDeadline(time.Time{}) // left to pass, it would wake the process once for each frame
}

// CloseWrite says that no more frames follow; the other side's can still be read.
func (c *Conn) CloseWrite() error {
	c.write.Lock()
	defer c.write.Unlock()
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return c.Close()
}

// Raw is the connection below TLS.
func (c *Conn) Raw() net.Conn {
	if t, ok := c.Conn.(*tls.Conn); ok {
		return t.NetConn()
	}
	return c.Conn
}

// Cut ends the connection at once and without a word; whoever reads or writes is woken. It never
// blocks, unlike Close.
func (c *Conn) Cut() { _ = c.Raw().Close() } // a second time it is closed already
