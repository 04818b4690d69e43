// SPDX-License-Identifier: Apache-2.0

// Command guest is the first and only process of the lab's guests. It writes a numbered
// record (sim/sequence) to /dev/vda ten times a second, each durable before the next,
// and keeps some memory changing, so that a migration takes several passes.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/sim/sequence"
)

const (
	disk  = "/dev/vda"
	every = 100 * time.Millisecond
	dirty = 4 << 20 // bytes that keep changing
	page  = 4096
)

func main() {
	fmt.Fprintln(os.Stderr, "guest ends:", run())
	select {} // the first process must not end
}

func run() error {
	if err := errors.Join(unix.Mount("dev", "/dev", "devtmpfs", 0, ""), unix.Mount("proc", "/proc", "proc", 0, "")); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	modules, err := filepath.Glob("/modules/*.ko")
	if err != nil {
		return err
	}
	for _, m := range modules {
		if err := load(m); err != nil {
			return fmt.Errorf("load %s: %w", m, err)
		}
	}
	tick := time.NewTicker(every)
	for errors.Is(look(), fs.ErrNotExist) {
		<-tick.C
	}
	f, err := os.OpenFile(disk, os.O_RDWR|unix.O_DIRECT|unix.O_SYNC, 0)
	if err != nil {
		return err
	}
	ring, err := unix.Mmap(-1, 0, sequence.Size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) // aligned, for O_DIRECT
	if err != nil {
		return err
	}
	rep, err := sequence.Read(aligned{f, ring})
	if err != nil {
		return err
	}
	run := fmt.Sprintf("%x-%x", time.Now().UnixNano(), rand.Uint64())
	fmt.Println("guest writes from", rep.Last.N+1, "as", run, rep.Problems)
	memory := make([]byte, dirty)
	tick.Stop()
	for n := rep.Last.N + 1; ; {
		<-time.After(every/2 + rand.N(every)) // in step with a second copy, one would hide the other
		for i := int(n%16) * page; i < len(memory); i += 16 * page {
			memory[i]++
		}
		copy(ring, sequence.Record{N: n, Run: run}.Encode())
		if _, err := f.WriteAt(ring[:sequence.Sector], sequence.Offset(n)); err != nil {
			fmt.Println("write", n, err)
			continue
		}
		n++
	}
}

func load(module string) error {
	f, err := os.Open(module)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

func look() error {
	_, err := os.Stat(disk)
	return err
}

// aligned reads through an aligned buffer.
type aligned struct {
	f   *os.File
	buf []byte
}

func (a aligned) ReadAt(p []byte, at int64) (int, error) {
	n, err := a.f.ReadAt(a.buf[:len(p)], at)
	return copy(p, a.buf[:n]), err
}
