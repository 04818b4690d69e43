// SPDX-License-Identifier: Apache-2.0

package probe_test

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-ha/holdfast/agent/probe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func dir(t *testing.T, path string, mount bool) *probe.Dir {
	t.Helper()
	d, err := probe.NewDir("p1", path, mount)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func write(t *testing.T, d *probe.Dir, host string, counter uint64) {
	t.Helper()
	if err := d.WriteStamp(t.Context(), host, counter); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, d *probe.Dir, host string) string {
	t.Helper()
	b, err := d.ReadStamp(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// ha.md §5: a neighbour reads the stamp twice: did it move?
func TestStampMovesWithItsCounterOnly(t *testing.T) {
	d := dir(t, t.TempDir(), false)
	write(t, d, "h1", 7)
	first := read(t, d, "h1")
	if again := read(t, d, "h1"); again != first {
		t.Errorf("a stamp nobody wrote moved: %q, then %q", first, again)
	}
	write(t, d, "h1", 8)
	if moved := read(t, d, "h1"); moved == first || len(moved) != len(first) {
		t.Errorf("stamp 8 = %q, want something else than %q of the same size", moved, first)
	}
	write(t, d, "h2", 8)
	if read(t, d, "h2") == read(t, d, "h1") {
		t.Error("stamps of two hosts are equal")
	}
}

func TestStampIsReadWholeWhileWritten(t *testing.T) {
	d := dir(t, t.TempDir(), false)
	write(t, d, "h1", 0)
	var writer sync.WaitGroup
	writer.Go(func() {
		for n := range uint64(50) {
			if err := d.WriteStamp(t.Context(), "h1", n); err != nil {
				t.Error(err)
			}
		}
	})
	for range 200 {
		read(t, d, "h1")
	}
	writer.Wait()
}

// "No stamp" is said only when the pool answered (doc.go).
func TestMissingStampIsNoErrorOfThePool(t *testing.T) {
	d := dir(t, t.TempDir(), false)
	write(t, d, "h1", 1)
	if _, err := d.ReadStamp(t.Context(), "h2"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("stamp never written: %v, want fs.ErrNotExist", err)
	}
	gone := dir(t, filepath.Join(t.TempDir(), "gone"), false)
	if _, err := gone.ReadStamp(t.Context(), "h1"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("pool that is gone: %v, want an error that is not fs.ErrNotExist", err)
	}
	if err := gone.WriteStamp(t.Context(), "h1", 1); err == nil {
		t.Error("a stamp was written to a pool that is gone")
	}
}

// A directory left behind by a missing mount never passes for the pool (doc.go).
func TestUnmountedPoolGivesErrors(t *testing.T) {
	path := t.TempDir()
	d := dir(t, path, true)
	if err := d.WriteStamp(t.Context(), "h1", 1); err == nil || !strings.Contains(err.Error(), "not a mount point") {
		t.Errorf("write to a bare directory: %v, want not a mount point", err)
	}
	if left, _ := os.ReadDir(path); len(left) != 0 {
		t.Errorf("the bare directory now holds %v", left)
	}
	if _, err := d.ReadStamp(t.Context(), "h1"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("read from a bare directory: %v, want an error that is not fs.ErrNotExist", err)
	}
	if _, err := dir(t, "/proc", true).StatDisk(t.Context(), "version"); err != nil {
		t.Errorf("/proc is a mount point: %v", err)
	}
}

func TestDamagedStampIsAnError(t *testing.T) {
	path := t.TempDir()
	d := dir(t, path, false)
	write(t, d, "h1", 1)
	write(t, d, "h2", 1)
	name := filepath.Join(path, ".holdfast/stamps/h1")
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	flipped := append([]byte{}, whole...)
	flipped[40] ^= 1
	other, err := os.ReadFile(filepath.Join(path, ".holdfast/stamps/h2"))
	if err != nil {
		t.Fatal(err)
	}
	for what, content := range map[string][]byte{
		"empty": nil, "short": whole[:100], "long": append(whole, ' '), "flipped": flipped, "another host's": other,
	} {
		if err := os.WriteFile(name, content, 0o644); err != nil {
			t.Fatal(err)
		}
		if b, err := d.ReadStamp(t.Context(), "h1"); err == nil {
			t.Errorf("%s stamp was read as %q", what, b)
		}
	}
}

// ha.md §5.2: did size, allocation or mtime move?
func TestDiskSamples(t *testing.T) {
	path := t.TempDir()
	d := dir(t, path, false)
	disk := filepath.Join(path, "disk.img")
	sample := func() probe.DiskSample {
		t.Helper()
		s, err := d.StatDisk(t.Context(), "disk.img")
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if err := os.WriteFile(disk, []byte("a"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := sample()
	if !before.Equal(sample()) {
		t.Error("a disk nobody wrote moved")
	}
	if err := os.Chtimes(disk, time.Time{}, before.MTime.Add(time.Nanosecond)); err != nil {
		t.Fatal(err)
	}
	if before.Equal(sample()) {
		t.Error("a new mtime is no move")
	}
	before = sample()
	if err := os.Truncate(disk, 4096); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(disk, time.Time{}, before.MTime); err != nil {
		t.Fatal(err)
	}
	if before.Equal(sample()) {
		t.Error("a new size is no move")
	}
	for _, bad := range []string{"no-such.img", "../etc/passwd", "/etc/passwd", ""} {
		if _, err := d.StatDisk(t.Context(), bad); err == nil {
			t.Errorf("StatDisk(%q) gave no error", bad)
		}
	}
}

func TestBadNamesAreRefused(t *testing.T) {
	d := dir(t, t.TempDir(), false)
	for _, host := range []string{"", ".", "..", "../h1", "a/b", "-h", ".h", "h 1", "h\n", strings.Repeat("h", 129)} {
		if err := d.WriteStamp(t.Context(), host, 1); err == nil {
			t.Errorf("WriteStamp of host %q gave no error", host)
		}
		if _, err := d.ReadStamp(t.Context(), host); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("ReadStamp of host %q = %v, want an error that is not fs.ErrNotExist", host, err)
		}
	}
	write(t, d, strings.Repeat("h", 128), 1<<64-1)
	for _, bad := range [][2]string{{"", "/x"}, {"p", "x"}, {"p", ""}} {
		if _, err := probe.NewDir(bad[0], bad[1], false); err == nil {
			t.Errorf("NewDir(%q, %q) gave no error", bad[0], bad[1])
		}
	}
}

// listen opens a UDP socket that answers with whatever answer makes of a datagram.
func listen(t *testing.T, answer func([]byte) []byte) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	t.Cleanup(served.Wait)
	t.Cleanup(func() { conn.Close() })
	served.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if a := answer(buf[:n]); a != nil {
				_, _ = conn.WriteTo(a, from)
			}
		}
	})
	return "udp-echo://" + conn.LocalAddr().String()
}

func attempt(t *testing.T, address string) (bool, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	return probe.Net{}.Probe(ctx, address)
}

// ha.md §5.3: does the host answer? An answer is active; only a probe that was sent and
// not answered is silence.
func TestProbeOverUDP(t *testing.T) {
	echo := func(b []byte) []byte { return b }
	if ok, err := attempt(t, listen(t, echo)); !ok || err != nil {
		t.Errorf("echo = %v, %v, want an answer", ok, err)
	}
	if ok, err := attempt(t, listen(t, func([]byte) []byte { return nil })); ok || err != nil {
		t.Errorf("mute socket = %v, %v, want silence", ok, err)
	}
	if ok, err := attempt(t, listen(t, func(b []byte) []byte { b[0]++; return b })); ok || err != nil {
		t.Errorf("wrong nonce = %v, %v, want silence", ok, err)
	}
	closed, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	if ok, err := attempt(t, "udp-echo://"+closed.LocalAddr().String()); !ok || err != nil {
		t.Errorf("port unreachable = %v, %v, want an answer of the kernel", ok, err)
	}
}

func TestProbeThatCannotBeSentIsAnError(t *testing.T) {
	for _, bad := range []string{"", "127.0.0.1", "tcp://127.0.0.1:1", "icmp://localhost", "icmp://127.0.0.1:1", "udp-echo://127.0.0.1", "udp-echo://127.0.0.1:0", "udp-echo://h:7"} {
		if ok, err := attempt(t, bad); ok || err == nil {
			t.Errorf("Probe(%q) = %v, %v, want an error", bad, ok, err)
		}
	}
	mute := listen(t, func([]byte) []byte { return nil })
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if ok, err := (probe.Net{}).Probe(over, mute); ok || err == nil {
		t.Errorf("under an ended context = %v, %v, want an error", ok, err)
	}
	during, cancel := context.WithCancel(t.Context())
	got := make(chan error)
	go func() { _, err := probe.Net{}.Probe(during, mute); got <- err }()
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled while waiting: %v, want context.Canceled", err)
	}
}

// Where ICMP sockets are not permitted, that is said and is no silence.
func TestProbeOverICMP(t *testing.T) {
	ok, err := attempt(t, "icmp://127.0.0.1")
	if permitted := err == nil; permitted != ok {
		t.Errorf("loopback = %v, %v, want an answer or a reason", ok, err)
	}
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		t.Errorf("loopback: %v, want an answer or no permission", err)
	}
}
