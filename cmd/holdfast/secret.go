// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/cmd/holdfast/print"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	"github.com/holdfast-ha/holdfast/worker/sealed"
)

const maxTyped = 4096

// newSecretCmd is `holdfast secret`: the keys under which credentials are sealed.
func newSecretCmd(e *env) *cobra.Command {
	return group("secret", "Make the keys that seal credentials, and seal anew",
		"Credentials of power devices are kept in etcd, sealed under a ring of keys that only workers have: docs/secrets.md. The credentials themselves are set with `holdfast power secret set`.",
		`  # a ring with its first key, for the field keyRing of every worker
  holdfast secret keygen /etc/holdfast/ring

  # a new key: added, given to every worker, made first, then everything under it
  holdfast secret keygen /etc/holdfast/ring
  holdfast secret reseal --dry-run
  holdfast secret reseal`, newKeygenCmd(e), newResealCmd(e))
}

func newKeygenCmd(e *env) *cobra.Command {
	var id string
	var first bool
	c := &cobra.Command{
		Use: "keygen FILE", Short: "Add a random key to a key ring file", Args: cobra.ExactArgs(1),
		Long: "Adds a random AES-256 key to the file, which is made when it is not there. The first key of a ring seals, all of them open: a new key comes last, so that every worker can have it before it seals, unless --first is given.\n" +
			"Nobody is asked and nothing is sent. Keep a copy apart from the backups of etcd: without the ring its secrets are lost.",
		Example: "  holdfast secret keygen ring\n  holdfast secret keygen ring --id 2027-01\n  holdfast secret keygen ring --first   # every worker reads this very file",
		RunE: func(_ *cobra.Command, args []string) error {
			ids, err := sealed.AddKey(args[0], id, first, e.Now())
			switch {
			case errors.Is(err, fs.ErrExist):
				return &exitError{err, exitConflict}
			case err != nil:
				return err
			}
			_, err = fmt.Fprintf(e.Stdout, "%s: keys %s; %s seals\n", args[0], strings.Join(ids, ", "), ids[0])
			return err
		},
	}
	c.Flags().StringVar(&id, "id", "", "name of the key (default: made of the time)")
	c.Flags().BoolVar(&first, "first", false, "make it the key that seals")
	return c
}

func newResealCmd(e *env) *cobra.Command {
	var out outputFlags
	var r v1.ResealRequest
	var dry bool
	c := &cobra.Command{
		Use: "reseal", Short: "Seal all secrets anew under the newest key", Args: cobra.NoArgs,
		Long: "Opens every secret that is sealed under an older key and seals it under the first key of the ring, some at a time; the secrets stay what they are. It may be stopped and repeated at any time.\n" +
			"It is refused while a worker does not have that key. Once nothing is left, older keys may be taken out of the ring.",
		Example: "  holdfast secret reseal --dry-run\n  holdfast secret reseal\n  holdfast secret reseal --batch 20",
	}
	c.RunE = e.asking(&out, func(ctx context.Context, api *v1.Client, o print.Options, _ []string) error {
		if dry {
			res, err := api.Reseal(ctx, r, true)
			if err != nil {
				return err
			}
			return e.show(o, res, func(t *text) {
				t.printf("%d of %d secrets would be sealed anew under key %s\n", res.Left, res.Total, res.Key)
				t.section("Cannot be opened:", res.Failed)
			})
		}
		total, err := e.reseal(ctx, api, r)
		if err != nil {
			return err
		}
		err = e.show(o, total, func(t *text) {
			t.printf("%d secrets sealed anew, all %d are under key %s\n", len(total.Done), total.Total-len(total.Failed)-total.Left, total.Key)
			t.section("Not sealed anew:", total.Failed)
		})
		if err == nil && len(total.Failed) > 0 {
			return &exitError{fmt.Errorf("reseal: %d secrets failed", len(total.Failed)), exitUnhealthy}
		}
		return err
	})
	out.registerFormat(c)
	c.Flags().BoolVar(&dry, "dry-run", false, "say what would be done and do nothing")
	c.Flags().IntVar(&r.Limit, "batch", 100, "secrets in one call, 1 to 500")
	c.Flags().BoolVar(&r.Force, "force", false, "although a worker does not have the key or does not answer")
	return c
}

// reseal goes on until nothing is left, and tells how far it is.
func (e *env) reseal(ctx context.Context, api *v1.Client, r v1.ResealRequest) (v1.ResealResult, error) {
	var total v1.ResealResult
	for {
		res, err := api.Reseal(ctx, r, false)
		if err != nil {
			if len(total.Done) > 0 {
				return total, fmt.Errorf("after %d secrets: %w", len(total.Done), err)
			}
			return total, err
		}
		total.Key, total.Total, total.Failed, total.Left = res.Key, res.Total, res.Failed, res.Left
		total.Done = append(total.Done, res.Done...)
		if res.Left == 0 {
			return total, nil
		}
		fmt.Fprintf(e.Stderr, "%d of %d done\n", len(total.Done), len(total.Done)+res.Left)
		if len(res.Done) == 0 {
			return total, fmt.Errorf("reseal: %d secrets are left and none could be sealed anew: %s", res.Left, strings.Join(res.Failed, "; "))
		}
	}
}

// password reads a password: without echo from a terminal, else all of standard input
// but one line break at its end. The caller clears it.
func (e *env) password(ctx context.Context, prompt string, twice bool) ([]byte, error) {
	if !e.IsTTY(e.Stdin) {
		b, err := io.ReadAll(io.LimitReader(e.Stdin, maxTyped+1))
		if err != nil {
			return nil, fmt.Errorf("read the password from standard input: %w", err)
		}
		return checkTyped(bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r")))
	}
	b, err := e.hidden(ctx, prompt+": ")
	if err == nil && twice {
		again, aerr := e.hidden(ctx, prompt+", again: ")
		defer clear(again)
		if err = aerr; err == nil && !bytes.Equal(b, again) {
			err = errors.New("the two passwords differ, nothing was done")
		}
	}
	if err != nil {
		clear(b)
		return nil, err
	}
	return checkTyped(b)
}

func checkTyped(b []byte) ([]byte, error) {
	if n := len(b); n == 0 || n > maxTyped {
		clear(b)
		return nil, usage(fmt.Errorf("password: %d bytes, allowed are 1 to 1024; it comes from the terminal or from standard input, never from the command line", n))
	}
	return b, nil
}

// hidden reads one line from the terminal without echo. An interrupt gives the terminal
// its echo back.
func (e *env) hidden(ctx context.Context, prompt string) (line []byte, err error) {
	fmt.Fprint(e.Stderr, prompt)
	defer fmt.Fprintln(e.Stderr)
	f, ok := e.Stdin.(*os.File)
	if !ok { // not the kind of terminal that echoes
		return e.typedLine()
	}
	fd := int(f.Fd())
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("read the terminal's state: %w", err)
	}
	mute := *old
	mute.Lflag = mute.Lflag&^unix.ECHO | unix.ICANON | unix.ISIG
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &mute); err != nil {
		return nil, fmt.Errorf("switch the terminal's echo off: %w", err)
	}
	defer func() { err = errors.Join(err, unix.IoctlSetTermios(fd, unix.TCSETS, old)) }()
	for {
		// A read of a terminal cannot be called off: read only what is there.
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil && !errors.Is(err, unix.EINTR):
			return nil, fmt.Errorf("read the password: %w", err)
		case n > 0:
			return e.typedLine()
		}
	}
}

// typedLine reads up to a line break, byte by byte: what follows belongs to the next one.
func (e *env) typedLine() ([]byte, error) {
	var line []byte
	for b := make([]byte, 1); len(line) <= maxTyped; {
		n, err := e.Stdin.Read(b)
		switch {
		case n == 1 && b[0] == '\n', errors.Is(err, io.EOF):
			return line, nil
		case err != nil:
			return nil, fmt.Errorf("read the password: %w", err)
		case n == 1:
			line = append(line, b[0])
		}
	}
	return line, nil
}
