package main

import (
	"context"
	"database/sql"
	"errors"
	"log"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// taken holds the votes that a worker took from the queue and has not written yet.
const taken = "taken"

// worker moves votes from the queue to the database, whatever of the two is away meanwhile.
func worker(ctx context.Context) error {
	votes := redis.NewClient(&redis.Options{Addr: "redis:6379"})
	defer votes.Close()
	db, err := openDatabase()
	if err != nil {
		return err
	}
	defer db.Close()
	for ctx.Err() == nil {
		if err := drain(ctx, votes, db); err != nil && ctx.Err() == nil {
			log.Print(err)
			time.Sleep(pause)
		}
	}
	return nil
}

// drain writes votes until something fails. It begins with those that an earlier try took: writing a vote twice changes nothing.
func drain(ctx context.Context, votes *redis.Client, db *sql.DB) error {
	if _, err := db.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS votes (voter TEXT PRIMARY KEY, choice TEXT NOT NULL)"); err != nil {
		return err
	}
	for {
		err := votes.LMove(ctx, taken, queue, "RIGHT", "LEFT").Err()
		if errors.Is(err, redis.Nil) {
			break
		}
		if err != nil {
			return err
		}
	}
	log.Print("queue and database are there")
	for {
		if err := move(ctx, votes, db); err != nil && !errors.Is(err, redis.Nil) {
			return err
		}
	}
}

// move waits a second for a vote; redis.Nil says that there was none.
func move(ctx context.Context, votes *redis.Client, db *sql.DB) error {
	entry, err := votes.BLMove(ctx, queue, taken, "LEFT", "RIGHT", time.Second).Result()
	if err != nil {
		return err
	}
	voter, choice, _ := strings.Cut(entry, " ")
	_, err = db.ExecContext(ctx, "INSERT INTO votes VALUES ($1, $2) ON CONFLICT (voter) DO UPDATE SET choice = EXCLUDED.choice", voter, choice)
	if err != nil {
		return err
	}
	return votes.LRem(ctx, taken, 1, entry).Err()
}
