// SPDX-License-Identifier: Apache-2.0

// Command lab brings a lab up and keeps it until it is interrupted, changes the power of
// its hosts, and removes what a lab left behind.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-ha/holdfast/tests/lab"
)

const usage = `usage: lab up [HOSTS]   bring it up, stay until Ctrl-C, clean up
       lab down         end a lab that runs, remove what it left`

func main() {
	lab.Child()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) >= 1 && len(args) <= 2 && args[0] == "up":
		var cfg lab.Config
		if len(args) == 2 {
			n, err := strconv.Atoi(args[1])
			if err != nil {
				return fmt.Errorf("%q is no number of hosts", args[1])
			}
			cfg.Hosts = n
		}
		return up(ctx, cfg)
	case len(args) == 1 && args[0] == "down":
		return down(ctx)
	}
	return errors.New(usage)
}

func up(ctx context.Context, cfg lab.Config) error {
	began := time.Now()
	l, err := lab.Start(ctx, cfg)
	if err != nil {
		return err
	}
	fmt.Printf("%d hosts in %v. Ctrl-C cuts their power and cleans up.\n\n", len(l.Hosts), time.Since(began).Round(10*time.Millisecond))
	for _, h := range l.Hosts {
		fmt.Printf("%s  virsh -c %q list --all\n      BMC %s, user %s, password %s, cipher suite 17 or 3\n", h.Name, h.URI(), h.BMC.Addr(), lab.User, lab.Password)
		for _, d := range h.Dirs() {
			fmt.Printf("      pool %-7s %s\n", d.ID, d.Path)
		}
	}
	fmt.Printf("\nfor workers: ip netns exec %s …, address %s, hosts by name, BMCs at 10.77.0.11N:623\n", lab.Manager, lab.ManagerAddr)
	fmt.Printf("guest kernel %s\nguest initrd %s\n", l.Guest.Kernel.Image, l.Guest.Kernel.Initrd)
	<-ctx.Done()
	return l.Close()
}

// down asks the process that holds the lock, then cleans.
func down(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := lab.Clean(ctx)
	if err == nil {
		return nil
	}
	text, readErr := os.ReadFile(lab.Dir + ".lock")
	pid, convErr := strconv.Atoi(strings.TrimSpace(string(text)))
	if readErr != nil || convErr != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		return fmt.Errorf("end lab (process %d): %w", pid, err)
	}
	for tick := time.NewTicker(100 * time.Millisecond); ; {
		select {
		case <-tick.C:
			if err = lab.Clean(ctx); err == nil {
				return nil
			}
		case <-ctx.Done():
			return err
		}
	}
}
