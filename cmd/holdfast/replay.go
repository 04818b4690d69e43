// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/holdfast-ha/holdfast/coordinator/replay"
)

// newReplayCmd is `holdfast replay`: would today's code decide the same?
func newReplayCmd(e *env) *cobra.Command {
	var out outputFlags
	c := &cobra.Command{
		Use: "replay FILE", Short: "Run an exported incident through today's code and show which verdicts differ",
		Long: "Reads a file of `holdfast incident export` and makes each of its decisions again with the code of this program: the record as it was, the recorded event and the settings of that moment go through the same pure functions as in a worker. Nothing is asked of anybody and nothing is touched.\n" +
			"Each line is judged on what was on record then, so that one other verdict does not make all later ones other. Words may differ; states, holds, guards' answers, proofs, deadlines and effects may not. The exit code is 1 when some do, 2 for a file that is none.",
		Example: `  holdfast incident export h-17.20261121T120015.i3 > i3.json
  holdfast replay i3.json
  holdfast replay i3.json -o json`,
		Args: cobra.ExactArgs(1),
	}
	c.RunE = func(_ *cobra.Command, args []string) error {
		o, err := out.options(e)
		if err != nil {
			return err
		}
		data, err := readBounded(args[0])
		if err != nil {
			return usage(err)
		}
		f, err := replay.Parse(data)
		if err != nil {
			return usage(fmt.Errorf("%s: %w", args[0], err))
		}
		rep := replay.Run(f)
		if err := e.show(o, rep, func(t *text) { replayed(t, rep) }); err != nil {
			return err
		}
		switch {
		case rep.Differ > 0:
			return fmt.Errorf("%d of %d verdicts differ", rep.Differ, rep.Judged)
		case rep.Judged == 0:
			return errors.New("no decision of the file could be judged")
		}
		return nil
	}
	out.registerFormat(c)
	return c
}

// readBounded reads a file that is not larger than one that replay takes.
func readBounded(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() // it was only read
	return io.ReadAll(io.LimitReader(f, replay.MaxFile+1))
}

func replayed(t *text, r replay.Report) {
	t.printf("incident %s of host %s, %d decisions, exported by %s\n\n", plain(r.Incident), plain(r.Host), len(r.Lines), plain(cmp.Or(r.Software, "an unknown version")))
	last := -1
	for _, l := range r.Lines {
		if l.N != last+1 {
			t.printf("      … %d to %d are not in the file\n", last+1, l.N-1)
		}
		last = l.N
		word := "same"
		switch {
		case l.Missing != "":
			word = "?"
		case len(l.Differs) > 0:
			word = "DIFFERS"
		case l.WhyNow != "":
			word = "same, other words"
		case len(l.Also) > 0:
			word = "same verdict"
		}
		t.printf("%4d  %s  %-13s %s", l.N, l.At.Format("15:04:05.000"), plain(string(l.Then.State)), plain(l.Event))
		t.printf(": %s\n", word)
		if l.Missing != "" {
			t.printf("      not judged: %s\n", plain(l.Missing))
		}
		for _, d := range l.Differs {
			t.printf("      %s\n", plain(d))
		}
		if len(l.Differs) > 0 || l.WhyNow != "" {
			t.printf("      then: %s\n", plain(l.Why))
			t.printf("      now:  %s\n", plain(cmp.Or(l.WhyNow, l.Why)))
		}
		if len(l.Also) > 0 {
			t.printf("      also other on record: %s\n", plain(fmt.Sprint(l.Also)))
		}
	}
	t.printf("\n%d judged: %d the same, %d differ; %d could not be judged\n", r.Judged, r.Judged-r.Differ, r.Differ, r.Missing)
}
