// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/sim/world"
)

// errQuit is the wish to end the fleet.
var errQuit = errors.New("quit")

const promptHelp = `  crash h003        break a host; also: %s
  storage-lost h003 cluster
  repair h003       undo it
  kill w1, stop w1, restart w1, pause w1, start w1
  status, quit
`

// prompt reads words from a terminal until ctx ends or somebody quits.
func (f *devFleet) prompt(ctx context.Context, in *os.File, out io.Writer) error {
	fmt.Fprintln(out, "Type `crash h003`, `repair h003`, `kill w1`, `help` or `quit`; in another terminal: holdfast events -w")
	lines := bufio.NewReader(in)
	for {
		fmt.Fprint(out, "> ")
		// A read of a terminal cannot be called off: read only what is there.
		for lines.Buffered() == 0 {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(in.Fd()), Events: unix.POLLIN}}, 200)
			if err != nil && !errors.Is(err, unix.EINTR) {
				return fmt.Errorf("read terminal: %w", err)
			}
			if ctx.Err() != nil {
				fmt.Fprintln(out)
				return nil
			}
			if n > 0 {
				break
			}
		}
		line, err := lines.ReadString('\n')
		if err != nil {
			return errQuit // Ctrl-D
		}
		switch err := f.word(strings.Fields(line), out); {
		case errors.Is(err, errQuit):
			return err
		case err != nil:
			fmt.Fprintln(out, "Error:", err)
		}
	}
}

// word carries out one line of the prompt.
func (f *devFleet) word(words []string, out io.Writer) error {
	hows, _ := world.Hows()
	switch {
	case len(words) == 0:
		return nil
	case words[0] == "quit" || words[0] == "exit":
		return errQuit
	case words[0] == "status":
		return f.status().print(&env{Stdout: out})
	case words[0] == "help" || len(words) < 2 || len(words) > 3:
		fmt.Fprintf(out, promptHelp, strings.Join(mapped(hows, func(h world.How) string { return string(h) }), ", "))
		return nil
	}
	o := devOrder{Name: words[1], For: 10 * time.Second, Cluster: len(words) == 3 && words[2] == "cluster"}
	switch words[0] {
	case "repair":
		o.Verb = "repair"
	case "kill", "stop", "restart", "pause", "start":
		o.Verb = words[0] + "-worker"
	default:
		o.Verb, o.How = "break", world.How(words[0])
	}
	return f.obey(o)
}
