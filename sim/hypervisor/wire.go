// SPDX-License-Identifier: Apache-2.0

package hypervisor

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"net"
	"syscall"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
)

// request is one call of an engine; only the fields its operation needs are set.
type request struct {
	Op        string
	ID        string
	IDs       []string
	Force     bool
	Disk      hypervisor.Disk
	Def       hypervisor.Definition
	Migration hypervisor.Migration
	Copy      hypervisor.BlockCopy
	Chunk     chunk
	Record    handover
}

// chunk is a piece of a disk that moves to another host.
type chunk struct {
	Disk   hypervisor.Disk
	Offset int64
	Data   []byte
}

// handover is the memory of a guest.
type handover struct {
	Next uint64
	Run  string
}

type answer struct {
	Err      string
	Kinds    []int // indexes into kinds
	Instance hypervisor.InstanceSight
	Job      hypervisor.JobSight
	List     []hypervisor.Instance
	Users    map[string][]hypervisor.User
}

// kinds are the errors that keep their identity on the wire.
var kinds = []error{
	hypervisor.ErrNotFound, hypervisor.ErrExists, hypervisor.ErrBusy, hypervisor.ErrUnsure,
	syscall.ENOSPC, syscall.EROFS, syscall.EIO, syscall.ENOENT,
}

func (a *answer) fail(err error) {
	if err == nil {
		return
	}
	a.Err = err.Error()
	for i, k := range kinds {
		if errors.Is(err, k) {
			a.Kinds = append(a.Kinds, i)
		}
	}
}

func (a *answer) err() error {
	if a.Err == "" {
		return nil
	}
	return wireError{a.Err, a.Kinds}
}

type wireError struct {
	text  string
	kinds []int
}

func (e wireError) Error() string { return e.text }

func (e wireError) Is(target error) bool {
	for _, i := range e.kinds {
		if kinds[i] == target {
			return true
		}
	}
	return false
}

// wire is one connection to an engine; calls on it follow one another.
type wire struct {
	conn net.Conn
	enc  *gob.Encoder
	dec  *gob.Decoder
}

func dial(ctx context.Context, socket string) (*wire, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("reach hypervisor: %w", err)
	}
	return &wire{conn, gob.NewEncoder(conn), gob.NewDecoder(conn)}, nil
}

// call sends and waits. The end of ctx ends the wait and the connection, not the work.
func (w *wire) call(ctx context.Context, q request) (*answer, error) {
	defer context.AfterFunc(ctx, func() { w.conn.Close() })()
	var a answer
	err := w.enc.Encode(q)
	if err == nil {
		err = w.dec.Decode(&a)
	}
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("%s: %w: hypervisor does not answer: %w", q.Op, hypervisor.ErrUnsure, err)
	}
	return &a, a.err()
}

// ask is a call on a connection of its own.
func ask(ctx context.Context, socket string, q request) (*answer, error) {
	w, err := dial(ctx, socket)
	if err != nil {
		return nil, err
	}
	defer w.conn.Close()
	return w.call(ctx, q)
}
