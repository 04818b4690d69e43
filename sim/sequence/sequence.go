// SPDX-License-Identifier: Apache-2.0

// Package sequence is what test guests write to their disks, simulated ones and real
// ones: numbered records in a ring of sectors, each with the name of the run that wrote
// it (one run is one start of the guest; a migration does not end it). Whoever reads the
// disk sees a lost write as a hole and a second running copy as runs that alternate.
//
// It refuses to repair anything, and it cannot see a disk that went back as a whole:
// for that the reader compares with the last number it has seen before.
package sequence

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"strings"
)

const (
	// Sector is the size of a record: what a disk writes whole or not at all.
	Sector = 512
	// Slots is how many records the ring holds.
	Slots = 2048
	// Size is the least size of a disk.
	Size = Sector * Slots

	magic = "holdfast-sequence"
)

// Record is one write of a guest.
type Record struct {
	N   uint64 // from 1
	Run string // without blanks
}

// Offset is where record n lies.
func Offset(n uint64) int64 { return int64(n%Slots) * Sector }

// Encode is the record's sector.
func (r Record) Encode() []byte {
	text := fmt.Sprintf("%s %d %s", magic, r.N, r.Run)
	b := make([]byte, Sector)
	copy(b, fmt.Sprintf("%s %08x\n", text, crc32.ChecksumIEEE([]byte(text))))
	return b
}

// decode says false for a sector that was never written, and errs for a damaged one.
func decode(b []byte) (r Record, written bool, err error) {
	if !bytes.ContainsFunc(b, func(c rune) bool { return c != 0 }) {
		return r, false, nil
	}
	line, _, _ := strings.Cut(string(b), "\n")
	f := strings.Fields(line)
	if len(f) != 4 || f[0] != magic {
		return r, true, fmt.Errorf("not a record: %.40q", line)
	}
	text := strings.Join(f[:3], " ")
	if f[3] != fmt.Sprintf("%08x", crc32.ChecksumIEEE([]byte(text))) {
		return r, true, fmt.Errorf("checksum of %q is wrong", line)
	}
	n, err := strconv.ParseUint(f[1], 10, 64)
	return Record{N: n, Run: f[2]}, true, err
}

// Report is what a disk tells.
type Report struct {
	Last     Record   // of the whole disk; zero if nothing was written
	Runs     []string // in order of their numbers
	Problems []string // none: no write is missing and nobody else wrote
}

// Read reads a disk's ring and judges it. The error is for a disk that cannot be read.
// The guest may go on writing meanwhile.
func Read(disk io.ReaderAt) (Report, error) {
	ring := make([]byte, Size)
	if _, err := disk.ReadAt(ring, 0); err != nil {
		return Report{}, fmt.Errorf("read sequence: %w", err)
	}
	var rep Report
	found := map[uint64]string{}
	first := uint64(0)
	for slot := range uint64(Slots) {
		r, written, err := decode(ring[slot*Sector : (slot+1)*Sector])
		switch {
		case err != nil:
			rep.Problems = append(rep.Problems, fmt.Sprintf("slot %d: %v", slot, err))
			continue
		case !written:
			continue
		case r.N%Slots != slot:
			rep.Problems = append(rep.Problems, fmt.Sprintf("slot %d: holds record %d", slot, r.N))
		}
		found[r.N] = r.Run
		if first == 0 || r.N < first {
			first = r.N
		}
		if r.N > rep.Last.N {
			rep.Last = r
		}
	}
	if rep.Last.N == 0 {
		return rep, nil
	}
	if want := uint64(1); rep.Last.N < Slots && first != want {
		rep.Problems = append(rep.Problems, fmt.Sprintf("records 1 to %d are missing", first-1))
	}
	ended := map[string]bool{}
	for n := first; n <= rep.Last.N; n++ {
		run, ok := found[n]
		switch {
		case !ok:
			rep.Problems = append(rep.Problems, fmt.Sprintf("record %d is missing", n))
			continue
		case len(rep.Runs) > 0 && rep.Runs[len(rep.Runs)-1] == run:
			continue
		case ended[run]:
			rep.Problems = append(rep.Problems, fmt.Sprintf("record %d: run %s writes again: two copies ran at once", n, run))
		}
		if len(rep.Runs) > 0 {
			ended[rep.Runs[len(rep.Runs)-1]] = true
		}
		rep.Runs = append(rep.Runs, run)
	}
	return rep, nil
}
